// A block-permutation operator's passes over its layers, and Adam between them, for CPUs: XLA calls these.
//
// What XLA's compiler makes of the same sums reads and writes memory more often than they need: a permutation's result
// is stored before the product that uses it, Adam is three loops, and what is kept of a layer is written by one thread.
// Here all threads go through the layers together, each with a share of neighbouring blocks at a time: it gathers what
// enters the layer there, and goes through the share in tiles whose vectors fit the nearest cache, reading each of a
// tile's k² runs of weights once, where they lie. Adam's step on a tile and the new momentum's product with its weights
// are one visit.
//
// Symbols: N layers, blocks of k×k, ñ hidden coordinates, B = ñ/k blocks; θ and each of Adam's moments [N, k, k, B];
// vectors [ñ], coordinate a·B + b being the a-th of block b. Sums run in the order of the path by XLA.

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

// ------------------------------------------------------------------------------------------------------------- Adam

// The numbers of a step, in lodo.operators._passes.AdamStep's order.
template <class T>
struct Adam {
  T rate, correction1, correction2, decay1, decay2, epsilon;
};

// One weight of n neighbouring blocks: Adam down ∂⟨g, S m⟩ = u(m) d(g) + u(g) d(m), and the new weight's term u θ of
// the sum that leaves the layer.
template <class T, bool kBegins>
inline void StepAndAdd(const Adam<T>& adam, T* __restrict theta, T* __restrict first, T* __restrict second,
                       const T* __restrict up_m, const T* __restrict down_g, const T* __restrict up_g,
                       const T* __restrict down_m, const T* __restrict u, T* __restrict out, int64_t n) {
  const T rest1 = 1 - adam.decay1, rest2 = 1 - adam.decay2;
  for (int64_t j = 0; j < n; ++j) {
    const T h = up_m[j] * down_g[j] + up_g[j] * down_m[j];
    const T one = adam.decay1 * first[j] + rest1 * h;
    const T two = adam.decay2 * second[j] + rest2 * (h * h);
    const T now = theta[j] - adam.rate * (one * adam.correction1 / (std::sqrt(two * adam.correction2) + adam.epsilon));
    first[j] = one;
    second[j] = two;
    theta[j] = now;
    out[j] = kBegins ? u[j] * now : out[j] + u[j] * now;
  }
}

// A share of layer i: Adam's step on its weights, and the new momentum's product with them. The momentum's new input
// takes the old one's place.
template <class T>
void StepThroughShare(const Adam<T>& adam, T* theta, T* first_moment, T* second_moment, const Way<T>& g,
                      const Way<T>& momentum, int64_t i, int64_t share) {
  const Shape& s = momentum.s;
  const int64_t begin = s.First(share), pitch = s.share;
  thread_local std::vector<T> entering;
  entering.resize(s.k * pitch);
  momentum.Enter(i, 0, begin, s.Count(share), entering.data(), pitch);
  const T *up_g = g.Up(i, 0), *down_g = g.Down(i, 0), *down_m = momentum.Down(i, 0);
  T *up_m = momentum.Up(i, 0), *out = momentum.Between(i, 0);
  s.ForAllTiles(share, [&](int64_t first, int64_t n) {
    const T* new_u = entering.data() + (first - begin);
    for (int64_t a = 0; a < s.k; ++a) {
      const int64_t row = a * s.blocks + first;
      for (int64_t o = 0; o < s.k; ++o) {
        const int64_t column = o * s.blocks + first, at = (i * s.k + a) * s.k * s.blocks + column;
        const auto step = a == 0 ? StepAndAdd<T, true> : StepAndAdd<T, false>;
        step(adam, theta + at, first_moment + at, second_moment + at, up_m + row, down_g + column, up_g + row,
             down_m + column, new_u + a * pitch, out + column, n);
      }
    }
    momentum.Look(new_u, pitch, n, momentum.largest_up, 0);
    for (int64_t a = 0; a < s.k; ++a) {
      std::memcpy(up_m + a * s.blocks + first, new_u + a * pitch, n * sizeof(T));
    }
  });
}

// ---------------------------------------------------------------------------------------------------- relative steps

// The numbers of a relative step, in the order in which lodo.operators._native.calls has them.
template <class T>
struct Relative {
  T rate, twice_whitening, share, learn;
};

template <class T>
inline T Inverse(T x) {
  return x >= std::numeric_limits<T>::min() ? 1 / x : T{0};
}

// n neighbouring blocks, each made (I + F) times itself with F ∝ E = d(p) y(m)ᵀ + d(m) y(p)ᵀ + 2 w I, and their mean
// squares of E. E has rank two but for 2 w I, so that F θ costs two products of vectors with θ.
template <class T, int K>
inline void Learn(const Relative<T>& step, int64_t blocks, T* __restrict theta, T* __restrict second,
                  const T* __restrict y_m, const T* __restrict y_p, const T* __restrict d_m, const T* __restrict d_p,
                  int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    T ym[K], yp[K], dm[K], dp[K];
    for (int a = 0; a < K; ++a) {
      ym[a] = y_m[a * blocks + j];
      yp[a] = y_p[a * blocks + j];
      dm[a] = d_m[a * blocks + j];
      dp[a] = d_p[a * blocks + j];
    }
    T squares = 0;
    for (int o = 0; o < K; ++o) {
      for (int p = 0; p < K; ++p) {
        const T e = dp[o] * ym[p] + dm[o] * yp[p] + (o == p ? step.twice_whitening : T{0});
        squares += e * e;
      }
    }
    // Blocks of which this is not finite stay; the step as a whole is then refused.
    const bool finite = squares <= std::numeric_limits<T>::max();
    const T mean = second[j] + step.share * (squares / (K * K) - second[j]);
    const T f = step.rate * Inverse(std::sqrt(mean));
    second[j] = finite ? mean : second[j];
    const T own = 1 + f * step.twice_whitening;
    for (int a = 0; a < K; ++a) {
      T* row = theta + a * K * blocks + j;
      T of_m = row[0] * ym[0], of_p = row[0] * yp[0];
      for (int p = 1; p < K; ++p) {
        of_m += row[p * blocks] * ym[p];
        of_p += row[p * blocks] * yp[p];
      }
      of_m *= f;
      of_p *= f;
      for (int o = 0; o < K; ++o) {
        const T now = own * row[o * blocks] + (dp[o] * of_m + dm[o] * of_p);
        row[o * blocks] = finite ? now : row[o * blocks];
      }
    }
  }
}

// The same for any k.
template <class T>
void LearnOf(const Relative<T>& step, int64_t k, int64_t blocks, T* theta, T* second, const T* y_m, const T* y_p,
             const T* d_m, const T* d_p, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    T squares = 0;
    for (int64_t o = 0; o < k; ++o) {
      for (int64_t p = 0; p < k; ++p) {
        const T e = d_p[o * blocks + j] * y_m[p * blocks + j] + d_m[o * blocks + j] * y_p[p * blocks + j] +
                    (o == p ? step.twice_whitening : T{0});
        squares += e * e;
      }
    }
    if (!std::isfinite(squares)) continue;
    second[j] += step.share * (squares / (k * k) - second[j]);
    const T f = step.rate * Inverse(std::sqrt(second[j]));
    for (int64_t a = 0; a < k; ++a) {
      T* row = theta + a * k * blocks + j;
      T of_m = 0, of_p = 0;
      for (int64_t p = 0; p < k; ++p) {
        of_m += row[p * blocks] * y_m[p * blocks + j];
        of_p += row[p * blocks] * y_p[p * blocks + j];
      }
      for (int64_t o = 0; o < k; ++o) {
        T& now = row[o * blocks];
        now = (1 + f * step.twice_whitening) * now + f * (d_p[o * blocks + j] * of_m + d_m[o * blocks + j] * of_p);
      }
    }
  }
}

// A tile of layer i, n blocks from the first on; the last block of the layer stays where `passed`.
template <class T>
void LearnTile(const Relative<T>& step, T* theta, T* second, const Way<T>& of, int64_t i, int64_t first, int64_t n,
               bool passed) {
  const Shape& s = of.s;
  if (passed && first + n == s.blocks) --n;
  T *w = theta + i * s.k * s.hidden + first, *squares = second + i * s.blocks + first;
  const T *y_m = of.Up(i, 0) + first, *y_p = of.Up(i, 1) + first;
  const T *d_m = of.Down(i, 0) + first, *d_p = of.Down(i, 1) + first;
  switch (s.k) {
    case 1: Learn<T, 1>(step, s.blocks, w, squares, y_m, y_p, d_m, d_p, n); break;
    case 2: Learn<T, 2>(step, s.blocks, w, squares, y_m, y_p, d_m, d_p, n); break;
    case 3: Learn<T, 3>(step, s.blocks, w, squares, y_m, y_p, d_m, d_p, n); break;
    case 4: Learn<T, 4>(step, s.blocks, w, squares, y_m, y_p, d_m, d_p, n); break;
    default: LearnOf<T>(step, s.k, s.blocks, w, squares, y_m, y_p, d_m, d_p, n);
  }
}

// ------------------------------------------------------------------------------------------------- what XLA calls

template <ffi::DataType D>
using In = ffi::Buffer<D>;
template <ffi::DataType D>
using Out = ffi::Result<ffi::Buffer<D>>;
using Index = ffi::Buffer<ffi::S32>;

// XLA gives a result the argument's own memory where it was told that it may; where it did not, the argument is copied.
template <class Argument, class Result>
auto* InPlace(Argument& argument, Result& result) {
  auto* to = result->typed_data();
  if (to != argument.typed_data()) std::memcpy(to, argument.typed_data(), argument.size_bytes());
  return to;
}

// Ĝᵀ Ĝ v, and the layers' inputs where `keep`.
template <ffi::DataType D>
ffi::Error Through(ffi::ThreadPool pool, In<D> theta, Index forward, Index inverse, In<D> v, Out<D> out, Out<D> up,
                   Out<D> down, Out<D> largest_up, Out<D> largest_down, Out<D> between, bool turned, bool keep,
                   bool outputs) {
  using T = ffi::NativeType<D>;
  const Shape s = Shape::Of(theta, pool);
  const int64_t count = v.dimensions()[0];
  std::vector<Largest<T>> most(2 * count);
  const Way<T> way{s, theta.typed_data(), {forward.typed_data(), turned}, {inverse.typed_data(), turned}, count,
                   v.typed_data(), keep, outputs, up->typed_data(), down->typed_data(), between->typed_data(),
                   out->typed_data(), keep ? most.data() : nullptr, keep ? most.data() + count : nullptr};
  InTurn(pool, way.Phases(), s.shares, way);
  for (int64_t r = 0; r < count; ++r) {
    largest_up->typed_data()[r] = most[r].Value();
    largest_down->typed_data()[r] = most[count + r].Value();
  }
  return ffi::Error::Success();
}

// One step of Adam down the hypergradient of ⟨g, S m⟩, and S v by the θ that comes of it, v being the new momentum.
template <ffi::DataType D>
ffi::Error AdamStep(ffi::ThreadPool pool, In<D> theta_in, In<D> first_in, In<D> second_in, In<D> up_in, In<D> down_in,
                    In<D> largest_in, Index forward, Index inverse, In<D> g, In<D> v, In<D> numbers, Out<D> theta_out,
                    Out<D> first_out, Out<D> second_out, Out<D> up_out, Out<D> down_out, Out<D> largest_out, Out<D> out,
                    ffi::Result<ffi::Buffer<ffi::PRED>> done, Out<D> up_g, Out<D> down_g, Out<D> between,
                    bool turned) {
  using T = ffi::NativeType<D>;
  const Shape s = Shape::Of(theta_in, pool);
  T* theta = InPlace(theta_in, theta_out);
  T* first = InPlace(first_in, first_out);
  T* second = InPlace(second_in, second_out);
  T* up = InPlace(up_in, up_out);
  T* down = InPlace(down_in, down_out);
  T* largest = InPlace(largest_in, largest_out);  // [2]: of the momentum's uᵢ and of its dᵢ
  const Permutation there{forward.typed_data(), turned}, back{inverse.typed_data(), turned};

  Largest<T> of_g[2];
  const Way<T> way_of_g{s, theta, there, back, 1, g.typed_data(), true, false, up_g->typed_data(), down_g->typed_data(),
                        between->typed_data(), out->typed_data(), &of_g[0], &of_g[1]};
  // The last permutation is left out: nobody asks for S g.
  InTurn(pool, way_of_g.Phases() - 1, s.shares, way_of_g);

  const T bound = largest[0] * of_g[1].Value() + of_g[0].Value() * largest[1];
  *done->typed_data() = std::isfinite(bound * bound);
  if (!*done->typed_data()) {
    std::fill_n(out->typed_data(), s.hidden, T{0});
    return ffi::Error::Success();
  }

  const T* number = numbers.typed_data();
  const Adam<T> adam{number[0], number[1], number[2], number[3], number[4], number[5]};
  Largest<T> of_momentum[2];
  const Way<T> momentum{s, theta, there, back, 1, v.typed_data(), true, false, up, down, between->typed_data(),
                        out->typed_data(), &of_momentum[0], &of_momentum[1]};
  InTurn(pool, momentum.Phases(), s.shares, [&](int64_t phase, int64_t share) {
    if (phase < s.layers) StepThroughShare(adam, theta, first, second, way_of_g, momentum, phase, share);
    else momentum(phase, share);
  });
  largest[0] = of_momentum[0].Value();
  largest[1] = of_momentum[1].Value();
  return ffi::Error::Success();
}

// A relative step on θ for m and p, and S v by the θ that comes of it, v being the new momentum.
//
// A layer learns where p comes down through it: its old weights are in the cache then, and what entered it from above
// is nowhere kept. θ is read four times and written once.
template <ffi::DataType D>
ffi::Error RelativeStep(ffi::ThreadPool pool, In<D> theta_in, In<D> second_in, Index forward, Index inverse, In<D> pair,
                        In<D> v, In<D> numbers, Out<D> theta_out, Out<D> second_out, Out<D> out,
                        ffi::Result<ffi::Buffer<ffi::PRED>> done, Out<D> up, Out<D> down, Out<D> between, bool turned,
                        bool passed) {
  using T = ffi::NativeType<D>;
  const Shape s = Shape::Of(theta_in, pool);
  T* theta = InPlace(theta_in, theta_out);
  T* second = InPlace(second_in, second_out);
  const T* number = numbers.typed_data();
  const Relative<T> step{number[0], number[1], number[2], number[3]};
  const Permutation there{forward.typed_data(), turned}, back{inverse.typed_data(), turned};

  *done->typed_data() = true;
  if (step.learn != 0) {
    Largest<T> rise[2], fall[2];
    const Way<T> both{s, theta, there, back, 2, pair.typed_data(), false, true, up->typed_data(), down->typed_data(),
                      between->typed_data(), out->typed_data(), rise, fall};
    const auto bound = [&](const Largest<T>* a, const Largest<T>* b) {
      const T most = a[0].Value() * b[1].Value() + a[1].Value() * b[0].Value();
      return std::isfinite(most * most);
    };
    InTurn(pool, s.layers, s.shares, both);
    *done->typed_data() = bound(rise, rise);
    if (*done->typed_data()) {
      InTurn(pool, s.layers, s.shares, [&](int64_t phase, int64_t share) {
        both.Through(s.layers + phase, share, [&](int64_t i, int64_t first, int64_t n) {
          LearnTile(step, theta, second, both, i, first, n, passed);
        });
      });
      *done->typed_data() = bound(rise, fall);
    }
    if (!*done->typed_data()) {
      std::fill_n(out->typed_data(), s.hidden, T{0});
      return ffi::Error::Success();
    }
  }
  const Way<T> momentum{s, theta, there, back, 1, v.typed_data(), false, false, up->typed_data(), down->typed_data(),
                        between->typed_data(), out->typed_data(), nullptr, nullptr};
  InTurn(pool, momentum.Phases(), s.shares, momentum);
  return ffi::Error::Success();
}

template <ffi::DataType D>
auto BindThrough() {
  using B = ffi::Buffer<D>;
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
      .template Arg<B>().template Arg<Index>().template Arg<Index>().template Arg<B>()
      .template Ret<B>().template Ret<B>().template Ret<B>().template Ret<B>().template Ret<B>().template Ret<B>()
      .template Attr<bool>("turned").template Attr<bool>("keep").template Attr<bool>("outputs");
}

template <ffi::DataType D>
auto BindAdamStep() {
  using B = ffi::Buffer<D>;
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
      .template Arg<B>().template Arg<B>().template Arg<B>().template Arg<B>().template Arg<B>().template Arg<B>()
      .template Arg<Index>().template Arg<Index>()
      .template Arg<B>().template Arg<B>().template Arg<B>()
      .template Ret<B>().template Ret<B>().template Ret<B>().template Ret<B>().template Ret<B>().template Ret<B>()
      .template Ret<B>().template Ret<ffi::Buffer<ffi::PRED>>()
      .template Ret<B>().template Ret<B>().template Ret<B>()
      .template Attr<bool>("turned");
}

template <ffi::DataType D>
auto BindRelativeStep() {
  using B = ffi::Buffer<D>;
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
      .template Arg<B>().template Arg<B>().template Arg<Index>().template Arg<Index>()
      .template Arg<B>().template Arg<B>().template Arg<B>()
      .template Ret<B>().template Ret<B>().template Ret<B>().template Ret<ffi::Buffer<ffi::PRED>>()
      .template Ret<B>().template Ret<B>().template Ret<B>()
      .template Attr<bool>("turned").template Attr<bool>("passed");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_through_float32, Through<ffi::F32>, BindThrough<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_through_float64, Through<ffi::F64>, BindThrough<ffi::F64>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_adam_step_float32, AdamStep<ffi::F32>, BindAdamStep<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_adam_step_float64, AdamStep<ffi::F64>, BindAdamStep<ffi::F64>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_relative_step_float32, RelativeStep<ffi::F32>, BindRelativeStep<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_relative_step_float64, RelativeStep<ffi::F64>, BindRelativeStep<ffi::F64>());
