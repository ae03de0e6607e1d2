// What passes over the layers of a block-permutation operator are made of: threads, permutations, products. See layers.cc.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ffi = xla::ffi;

namespace {

// ---------------------------------------------------------------------------------------------------------- threads

inline void Pause(int turns) {
  if (turns > 2000) {
    std::this_thread::yield();  // more threads than cores: whom we wait for may be waiting for ours
    return;
  }
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Phases, one after the other, each of the same number of shares, which whoever is free takes.
//
// The calling thread takes part and never waits for a thread that has not begun: however few of the pool's threads are
// free, it comes to an end. A ticket is the phase and its next share, so that nobody takes a share of a phase that is
// over; a helper that begins when all is over finds the last ticket, and touches nothing else.
struct Work {
  std::atomic<uint64_t> ticket{0};
  std::atomic<uint32_t> finished{0};
};

template <class Body>
bool TakeShare(Work& work, uint32_t shares, const Body& body, uint64_t seen) {
  const auto share = static_cast<uint32_t>(seen);
  if (share >= shares) return false;
  if (work.ticket.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) {
    body(static_cast<int64_t>(seen >> 32), static_cast<int64_t>(share));
    work.finished.fetch_add(1, std::memory_order_acq_rel);
  }
  return true;
}

template <class Body>
void InTurn(ffi::ThreadPool& pool, int64_t phases, int64_t shares, const Body& body) {
  if (shares == 1) {
    for (int64_t phase = 0; phase < phases; ++phase) body(phase, 0);
    return;
  }
  const auto count = static_cast<uint32_t>(shares);
  const auto end = static_cast<uint64_t>(phases) << 32;
  auto work = std::make_shared<Work>();
  const int64_t helpers = std::min(pool.num_threads(), shares) - 1;
  for (int64_t i = 0; i < helpers; ++i) {
    pool.Schedule([work, count, end, &body] {
      for (int turns = 0;; ++turns) {
        const uint64_t seen = work->ticket.load(std::memory_order_acquire);
        if (seen >= end) return;
        if (TakeShare(*work, count, body, seen)) turns = 0;
        else Pause(turns);
      }
    });
  }
  for (uint64_t phase = 0; phase < static_cast<uint64_t>(phases); ++phase) {
    while (TakeShare(*work, count, body, work->ticket.load(std::memory_order_acquire))) {}
    for (int turns = 0; work->finished.load(std::memory_order_acquire) < count; ++turns) Pause(turns);
    work->finished.store(0, std::memory_order_relaxed);
    work->ticket.store((phase + 1) << 32, std::memory_order_release);
  }
}

// ------------------------------------------------------------------------------------------------------- magnitudes

// Magnitudes are compared as the integers that their bits are, in which infinity is above every number and NaN above
// infinity: no comparison loses a NaN.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

template <class T>
Bits<T> LargestMagnitude(const T* v, int64_t count, Bits<T> most) {
  constexpr Bits<T> kUnsigned = ~Bits<T>{0} >> 1;
  for (int64_t j = 0; j < count; ++j) {
    Bits<T> bits;
    std::memcpy(&bits, v + j, sizeof(T));
    most = std::max(most, bits & kUnsigned);
  }
  return most;
}

template <class T>
struct Largest {
  std::atomic<Bits<T>> bits{0};

  void Raise(Bits<T> most) {
    Bits<T> seen = bits.load(std::memory_order_relaxed);
    while (seen < most && !bits.compare_exchange_weak(seen, most, std::memory_order_relaxed)) {}
  }
  T Value() const {
    const Bits<T> now = bits.load(std::memory_order_relaxed);
    T value;
    std::memcpy(&value, &now, sizeof(T));
    return value;
  }
};

// ------------------------------------------------------------------------------------------------------------ layers

struct Shape {
  int64_t layers, k, blocks, hidden;
  int64_t tile;           // blocks of a tile
  int64_t share, shares;  // blocks of a thread at a time, and how many such shares there are

  template <class Theta>
  static Shape Of(const Theta& theta, const ffi::ThreadPool& pool) {
    const auto d = theta.dimensions();
    Shape s{d[0], d[1], d[3], d[1] * d[3], 0, 0, 1};
    const auto bytes = static_cast<int64_t>(sizeof(*theta.typed_data()));
    // Two shares for each thread, so that one that is held up can be helped. What is gathered for a share stays in a
    // core's own cache; less than a few cache lines of each row are not worth another thread.
    const int64_t wanted = s.blocks / (2 * std::max<int64_t>(1, pool.num_threads())) + 1;
    const int64_t most = (256 << 10) / (s.k * bytes), least = 2048 / s.k;
    s.share = RoundedUp(std::clamp(wanted, std::min(least, most), most));
    // A tile of a vector, on both sides of a layer, fits the nearest cache.
    s.tile = std::min(s.share, RoundedUp((32 << 10) / (2 * s.k * bytes)));
    s.shares = (s.blocks + s.share - 1) / s.share;
    return s;
  }
  static int64_t RoundedUp(int64_t count) { return std::max<int64_t>(1, (count + 63) / 64) * 64; }

  int64_t First(int64_t share) const { return share * this->share; }
  int64_t Count(int64_t share) const { return std::min(this->share, blocks - First(share)); }

  // f(first, n) for each tile of a share: n blocks from the first on.
  template <class F>
  void ForAllTiles(int64_t share, const F& f) const {
    const int64_t end = First(share) + Count(share);
    for (int64_t first = First(share); first < end; first += tile) f(first, std::min(tile, end - first));
  }
};

// One direction of the permutations: indices [N, ñ], or by how much each row of each layer is turned [N, k].
struct Permutation {
  const int32_t* entries;
  bool turned;

  // out[j] = (P_i v)[a, first + j]
  template <class T>
  void Gather(const Shape& s, int64_t i, int64_t a, int64_t first, int64_t count, const T* v, T* __restrict out) const {
    if (turned) {
      const int64_t from = (first + entries[i * s.k + a]) % s.blocks;
      const int64_t before = std::min(count, s.blocks - from);
      std::memcpy(out, v + a * s.blocks + from, before * sizeof(T));
      std::memcpy(out + before, v + a * s.blocks, (count - before) * sizeof(T));
      return;
    }
    const int32_t* __restrict index = entries + i * s.hidden + a * s.blocks + first;
    for (int64_t j = 0; j < count; ++j) out[j] = v[index[j]];
  }
};

// One row of one tile of a layer's product, out = Σ x[t] ⊙ w[t] over K terms, whose runs of weights are `along` apart.
template <class T, int K>
inline void Row(const T* __restrict x, int64_t pitch, const T* __restrict w, int64_t along, T* __restrict out,
                int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    T sum = x[j] * w[j];
    for (int t = 1; t < K; ++t) sum += x[t * pitch + j] * w[t * along + j];
    out[j] = sum;
  }
}

// The same for any number of terms.
template <class T>
inline void RowOf(int64_t terms, const T* __restrict x, int64_t pitch, const T* __restrict w, int64_t along,
                  T* __restrict out, int64_t n) {
  Row<T, 1>(x, pitch, w, along, out, n);
  for (int64_t t = 1; t < terms; ++t) {
    for (int64_t j = 0; j < n; ++j) out[j] += x[t * pitch + j] * w[t * along + j];
  }
}

// One tile of one layer: out[o] = Σₐ x[a] θ[i, a, o], or transposed out[a] = Σₒ x[o] θ[i, a, o]; rows of x
// `pitch` apart, of out ñ/k.
template <class T>
void Product(const Shape& s, const T* theta, int64_t i, int64_t first, int64_t n, bool transposed, const T* x,
             int64_t pitch, T* out) {
  const T* w = theta + i * s.k * s.hidden + first;
  const int64_t along = transposed ? s.blocks : s.hidden, across = transposed ? s.hidden : s.blocks;
  for (int64_t row = 0; row < s.k; ++row, w += across, out += s.blocks) {
    switch (s.k) {
      case 1: Row<T, 1>(x, pitch, w, along, out, n); break;
      case 2: Row<T, 2>(x, pitch, w, along, out, n); break;
      case 3: Row<T, 3>(x, pitch, w, along, out, n); break;
      case 4: Row<T, 4>(x, pitch, w, along, out, n); break;
      case 8: Row<T, 8>(x, pitch, w, along, out, n); break;
      default: RowOf<T>(s.k, x, pitch, w, along, out, n);
    }
  }
}

// r vectors through Ĝ and back, and what they were where they entered the layers.
template <class T>
struct Way {
  const Shape s;
  const T* theta;
  const Permutation forward, inverse;
  const int64_t count;  // r
  const T* v;           // [r, ñ]
  const bool kept;      // whether there is room for the inputs of every layer, or of one
  const bool outputs;   // whether `up` has what leaves the layers, of every layer, in place of what enters them
  T* up;                // [N or 1, r, k, B] uᵢ, or yᵢ
  T* down;              // [N or 1, r, k, B] dᵢ
  T* between;           // [2, r, ñ], to work in
  T* out;               // [r, ñ]
  Largest<T>* largest_up;  // [r], or none
  Largest<T>* largest_down;

  int64_t Phases() const { return 2 * s.layers + 1; }

  T* Between(int64_t phase, int64_t r) const { return between + ((phase & 1) * count + r) * s.hidden; }
  T* Up(int64_t i, int64_t r) const { return up + ((kept || outputs ? i : 0) * count + r) * s.hidden; }
  T* Down(int64_t i, int64_t r) const { return down + ((kept ? i : 0) * count + r) * s.hidden; }

  // What leaves a layer in a phase.
  T* Above(int64_t phase, int64_t r) const { return outputs && phase < s.layers ? Up(phase, r) : Between(phase, r); }

  // Rows of n numbers, `pitch` apart, of vector r.
  void Look(const T* rows, int64_t pitch, int64_t n, Largest<T>* largest, int64_t r) const {
    if (largest == nullptr) return;
    Bits<T> most = 0;
    for (int64_t a = 0; a < s.k; ++a) most = LargestMagnitude(rows + a * pitch, n, most);
    largest[r].Raise(most);
  }

  // What enters layer i on the way up, as k rows of n numbers, `pitch` apart.
  void Enter(int64_t i, int64_t r, int64_t first, int64_t n, T* u, int64_t pitch) const {
    const T* below = i == 0 ? v + r * s.hidden : Above(i - 1, r);
    for (int64_t a = 0; a < s.k; ++a) forward.Gather(s, i, a, first, n, below, u + a * pitch);
  }

  // Phase i < N: layer i, upwards; phase N + j: layer N − 1 − j, transposed; phase 2N: the last permutation.
  //
  // All of a share is gathered at once: the weights that stream through the cache afterwards would push out of it the
  // vector that is gathered from.
  void operator()(int64_t phase, int64_t share) const {
    Through(phase, share, [](int64_t, int64_t, int64_t) {});
  }

  // And f(i, first, n) after each tile of a layer: n blocks from the first on.
  template <class F>
  void Through(int64_t phase, int64_t share, const F& f) const {
    const bool back = phase >= s.layers;
    const int64_t i = back ? 2 * s.layers - 1 - phase : phase, begin = s.First(share), own = s.Count(share);
    // What enters is kept where it belongs, or for this share alone.
    thread_local std::vector<T> entering;
    const bool apart = outputs && !back;
    const int64_t pitch = apart ? s.share : s.blocks;
    if (apart) entering.resize(count * s.k * pitch);
    for (int64_t r = 0; r < count; ++r) {
      if (apart) Enter(i, r, begin, own, entering.data() + r * s.k * pitch, pitch);
      else if (!back) Enter(i, r, begin, own, Up(i, r) + begin, pitch);
      else EnterBack(phase, r, begin, own);
    }
    if (phase == 2 * s.layers) return;
    s.ForAllTiles(share, [&](int64_t first, int64_t n) {
      for (int64_t r = 0; r < count; ++r) {
        const T* kept_at = (back ? Down(i, r) : Up(i, r)) + first;
        const T* from = apart ? entering.data() + r * s.k * pitch + (first - begin) : kept_at;
        T* to = Above(phase, r) + first;
        if (!apart) Look(from, s.blocks, n, back ? largest_down : largest_up, r);
        Product(s, theta, i, first, n, back, from, pitch, to);
        if (apart) Look(to, s.blocks, n, largest_up, r);
      }
      f(i, first, n);
    });
  }

  // What enters a transposed layer, or leaves the last one.
  void EnterBack(int64_t phase, int64_t r, int64_t first, int64_t n) const {
    const int64_t i = 2 * s.layers - 1 - phase;
    const T* above = Above(phase - 1, r);
    T* d = i >= 0 ? Down(i, r) : out + r * s.hidden;
    for (int64_t a = 0; a < s.k; ++a) {
      const int64_t row = a * s.blocks + first;
      if (i + 1 == s.layers) std::memcpy(d + row, above + row, n * sizeof(T));
      else inverse.Gather(s, i + 1, a, first, n, above, d + row);
    }
  }
};

}  // namespace
