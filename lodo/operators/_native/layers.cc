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
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "passes.h"

namespace {

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

// m and p at one coordinate. They travel side by side: one index, and one line of the cache, is for both.
template <class T>
struct Pair {
  T m, p;
};

// The largest magnitudes of both.
template <class T>
struct Most {
  Bits<T> m = 0, p = 0;

  void Look(T of_m, T of_p) { m = Larger(m, of_m), p = Larger(p, of_p); }
};

// Of a loop whose turns read and write places of their own: they may be made side by side.
#if defined(__clang__)
#define LODO_SIDE_BY_SIDE _Pragma("clang loop vectorize(assume_safety)")
#else
#define LODO_SIDE_BY_SIDE _Pragma("GCC ivdep")
#endif

constexpr int64_t kLanes = 64;

// What the two functions below are given: n neighbouring blocks of a layer. Rows are `blocks` apart, those of x `pitch`.
template <class T>
struct Tile {
  const Relative<T>& step;
  const int64_t k, n, blocks, pitch;
  T* __restrict theta;
  T* __restrict second;
  const Pair<T>* __restrict x;  // what enters
  const Pair<T>* __restrict y;  // what left the layer going up
  Pair<T>* __restrict out;      // what leaves
  const bool last_stays;        // whether the last of them does not learn
};

// Upwards, out[o] = Σₐ x[a] θ[a, o]; k is K, or the tile's where K is 0. Returns the largest magnitudes that leave.
template <class T, int K>
Most<T> Rise(const Tile<T>& tile) {
  const auto [step, tile_k, n, blocks, pitch, theta, second, x, y, out, last_stays] = tile;
  const int64_t k = K > 0 ? K : tile_k;
  Most<T> most;
  LODO_SIDE_BY_SIDE
  for (int64_t j = 0; j < n; ++j) {
#pragma GCC unroll 8
    for (int64_t o = 0; o < k; ++o) {
      T m = 0, p = 0;
#pragma GCC unroll 8
      for (int64_t a = 0; a < k; ++a) {
        const T w = theta[(a * k + o) * blocks + j];
        m += x[a * pitch + j].m * w, p += x[a * pitch + j].p * w;
      }
      out[o * blocks + j].m = m, out[o * blocks + j].p = p;
      most.Look(m, p);
    }
  }
  return most;
}

// Downwards, out[a] = Σₒ d[o] θ[a, o], and then each block made (I + F) times itself with F ∝ E = d(p) y(m)ᵀ +
// d(m) y(p)ᵀ + 2 w I, d being x; and their mean squares of E. E has rank two but for 2 w I, so that F θ costs two
// products of vectors with θ. Returns the largest magnitudes that enter.
template <class T, int K>
Most<T> Fall(const Tile<T>& tile) {
  const auto [step, tile_k, n, blocks, pitch, theta, second, x, y, out, last_stays] = tile;
  const int64_t k = K > 0 ? K : tile_k;
  const T stays = second[n - 1], whitening = step.twice_whitening, share = step.share, rate = step.rate;
  T f[kLanes];
  Most<T> most;
  for (int64_t begin = 0; begin < n; begin += kLanes) {
    const int64_t count = std::min(kLanes, n - begin);
    LODO_SIDE_BY_SIDE
    for (int64_t l = 0; l < count; ++l) {
      const int64_t j = begin + l;
      T squares = 0;
#pragma GCC unroll 8
      for (int64_t o = 0; o < k; ++o) {
        const T d_m = x[o * pitch + j].m, d_p = x[o * pitch + j].p;
        most.Look(d_m, d_p);
#pragma GCC unroll 8
        for (int64_t p = 0; p < k; ++p) {
          const T e = d_p * y[p * blocks + j].m + d_m * y[p * blocks + j].p + (o == p ? whitening : T{0});
          squares += e * e;
        }
      }
      // Blocks of which this is not finite stay; the step as a whole is then refused.
      const bool finite = squares <= std::numeric_limits<T>::max();
      const T before = second[j], mean = before + share * (squares / (k * k) - before);
      const T root = std::sqrt(finite ? mean : T{0});
      f[l] = root >= std::numeric_limits<T>::min() ? rate / root : T{0};
      second[j] = finite ? mean : before;
    }
    if (last_stays && begin + count == n) f[count - 1] = 0, second[n - 1] = stays;
    LODO_SIDE_BY_SIDE
    for (int64_t l = 0; l < count; ++l) {
      const int64_t j = begin + l;
      const T own = 1 + f[l] * whitening;
#pragma GCC unroll 8
      for (int64_t a = 0; a < k; ++a) {
        T* w = theta + a * k * blocks + j;
        T m = 0, p = 0, of_m = 0, of_p = 0;
#pragma GCC unroll 8
        for (int64_t o = 0; o < k; ++o) {
          const T old = w[o * blocks];
          m += x[o * pitch + j].m * old, p += x[o * pitch + j].p * old;
          of_m += y[o * blocks + j].m * old, of_p += y[o * blocks + j].p * old;
        }
        out[a * blocks + j].m = m, out[a * blocks + j].p = p;
#pragma GCC unroll 8
        for (int64_t o = 0; o < k; ++o) {
          const T old = w[o * blocks], change = f[l] * (x[o * pitch + j].p * of_m + x[o * pitch + j].m * of_p);
          w[o * blocks] = f[l] == 0 ? old : own * old + change;
        }
      }
    }
  }
  return most;
}

// kLanes entries of each of the given rows, which are `pitch` apart, on their way into the nearest cache alone: they are
// wanted once, and must not push out of the others the vector that is gathered from.
template <class V>
inline void Ask(const V* rows, int64_t count, int64_t pitch) {
  for (int64_t row = 0; row < count; ++row) {
    const char* line = reinterpret_cast<const char*>(rows + row * pitch);
    for (size_t at = 0; at < kLanes * sizeof(V); at += 64) __builtin_prefetch(line + at, 0, 0);
  }
}

// m and p up through Ĝ, and down while the layers learn. A tile's rows are gathered just before they are used, and while
// they are, what streams in next is asked for: reading here and there leaves the memory idle.
template <class T>
struct Both {
  const Shape s;
  const Relative<T> step;
  T *theta, *second;
  const Permutation forward, inverse;
  const bool passed;  // whether the last block of each layer stays
  const Pair<T>* v;   // [ñ]
  Pair<T>* y;         // [N, k, B] what leaves the layers going up
  Pair<T>* between;   // [2, ñ], to work in
  Largest<T>* on_the_way_up;  // [2], of m and of p
  Largest<T>* on_the_way_down;

  // Phase i < N: layer i, upwards; phase N + j: layer N − 1 − j, transposed.
  void operator()(int64_t phase, int64_t share) const {
    const bool back = phase >= s.layers;
    const int64_t i = back ? 2 * s.layers - 1 - phase : phase;
    const int64_t pitch = s.tile + 16;  // rows a power of two apart would push each other out of the cache
    const Pair<T>* from = back ? between + ((i + 1) & 1) * s.hidden : i == 0 ? v : y + (i - 1) * s.hidden;
    const auto fall = s.k == 4 ? Fall<T, 4> : s.k == 2 ? Fall<T, 2> : s.k == 8 ? Fall<T, 8> : Fall<T, 0>;
    const auto rise = s.k == 4 ? Rise<T, 4> : s.k == 2 ? Rise<T, 2> : s.k == 8 ? Rise<T, 8> : Rise<T, 0>;
    thread_local std::vector<Pair<T>> entering;
    entering.resize(s.k * pitch);
    s.ForAllTiles(share, [&](int64_t first, int64_t n) {
      Pair<T>*left = y + i * s.hidden + first, *to = back ? between + (i & 1) * s.hidden + first : left;
      const bool top = back && i + 1 == s.layers;  // where what left going up is what enters
      for (int64_t a = 0; a < s.k && !top; ++a) {
        for (int64_t j = 0; j < n; j += kLanes) {
          // The weights that this row meets, and yᵢ.
          const int64_t at = first + j, count = std::min(kLanes, n - j);
          Ask(theta + i * s.k * s.hidden + a * (back ? s.blocks : s.hidden) + at, s.k, back ? s.hidden : s.blocks);
          if (back) Ask(left + a * s.blocks + j, 1, 0);
          Pair<T>* row = entering.data() + a * pitch + j;
          if (back) inverse.Gather(s, i + 1, a, at, count, from, row);
          else forward.Gather(s, i, a, at, count, from, row);
        }
      }
      const Tile<T> tile{step, s.k, n, s.blocks, top ? s.blocks : pitch, theta + i * s.k * s.hidden + first,
                         second + i * s.blocks + first, top ? left : entering.data(), left, to,
                         passed && first + n == s.blocks};
      const Most<T> most = back ? fall(tile) : rise(tile);
      Largest<T>* largest = back ? on_the_way_down : on_the_way_up;
      largest[0].Raise(most.m), largest[1].Raise(most.p);
    });
  }
};

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
// is nowhere kept. What leaves a layer going up is kept, [N, ñ, 2]. θ is read four times and written once.
template <ffi::DataType D>
ffi::Error RelativeStep(ffi::ThreadPool pool, In<D> theta_in, In<D> second_in, Index forward, Index inverse, In<D> pair,
                        In<D> v, In<D> numbers, Out<D> theta_out, Out<D> second_out, Out<D> out,
                        ffi::Result<ffi::Buffer<ffi::PRED>> done, Out<D> leaving, Out<D> between, bool turned,
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
    Shape small = s;  // there are two vectors, and what they meet
    small.tile = (s.tile + 1) / 2;
    const Both<T> both{small, step, theta, second, there, back, passed,
                       reinterpret_cast<const Pair<T>*>(pair.typed_data()),
                       reinterpret_cast<Pair<T>*>(leaving->typed_data()),
                       reinterpret_cast<Pair<T>*>(between->typed_data()), rise, fall};
    const auto bound = [&](const Largest<T>* a, const Largest<T>* b) {
      const T most = a[0].Value() * b[1].Value() + a[1].Value() * b[0].Value();
      return std::isfinite(most * most);
    };
    InTurn(pool, s.layers, s.shares, both);
    *done->typed_data() = bound(rise, rise);
    if (*done->typed_data()) {
      InTurn(pool, s.layers, s.shares, [&](int64_t phase, int64_t share) { both(s.layers + phase, share); });
      *done->typed_data() = bound(rise, fall);
    }
    if (!*done->typed_data()) {
      std::fill_n(out->typed_data(), s.hidden, T{0});
      return ffi::Error::Success();
    }
  }
  T* room = leaving->typed_data();  // which nobody needs any more
  const Way<T> momentum{s, theta, there, back, 1, v.typed_data(), false, false, room, room + s.hidden,
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
      .template Ret<B>().template Ret<B>()
      .template Attr<bool>("turned").template Attr<bool>("passed");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_through_float32, Through<ffi::F32>, BindThrough<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_through_float64, Through<ffi::F64>, BindThrough<ffi::F64>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_adam_step_float32, AdamStep<ffi::F32>, BindAdamStep<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_adam_step_float64, AdamStep<ffi::F64>, BindAdamStep<ffi::F64>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_relative_step_float32, RelativeStep<ffi::F32>, BindRelativeStep<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lodo_relative_step_float64, RelativeStep<ffi::F64>, BindRelativeStep<ffi::F64>());
