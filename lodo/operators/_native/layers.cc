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

// n neighbouring blocks, at most kLanes, each made (I + F) times itself with F ∝ E = d(p) y(m)ᵀ + d(m) y(p)ᵀ + 2 w I,
// and their mean squares of E. E has rank two but for 2 w I, so that F θ costs two products of vectors with θ. Rows of
// y and d are `blocks` apart. k is K, or `terms` where K is 0.
constexpr int64_t kLanes = 64;

template <class T, int K>
void Learn(const Relative<T>& step, int64_t terms, int64_t blocks, T* __restrict theta, T* __restrict second,
           const T* __restrict y_m, const T* __restrict y_p, const T* __restrict d_m, const T* __restrict d_p,
           int64_t n) {
  const int64_t k = K > 0 ? K : terms;
  T squares[kLanes] = {}, f[kLanes], own[kLanes], of_m[kLanes], of_p[kLanes];
  for (int64_t o = 0; o < k; ++o) {
    const T *dm = d_m + o * blocks, *dp = d_p + o * blocks;
    for (int64_t p = 0; p < k; ++p) {
      const T *ym = y_m + p * blocks, *yp = y_p + p * blocks;
      const T added = o == p ? step.twice_whitening : T{0};
      for (int64_t j = 0; j < n; ++j) {
        const T e = dp[j] * ym[j] + dm[j] * yp[j] + added;
        squares[j] += e * e;
      }
    }
  }
  for (int64_t j = 0; j < n; ++j) {
    // Blocks of which this is not finite stay; the step as a whole is then refused.
    const bool finite = squares[j] <= std::numeric_limits<T>::max();
    const T mean = second[j] + step.share * (squares[j] / (k * k) - second[j]);
    const T root = std::sqrt(finite ? mean : T{0});
    f[j] = root >= std::numeric_limits<T>::min() ? step.rate / root : T{0};
    second[j] = finite ? mean : second[j];
    own[j] = 1 + f[j] * step.twice_whitening;
  }
  for (int64_t a = 0; a < k; ++a) {
    T* row = theta + a * k * blocks;
    if constexpr (K > 0) Row<T, K>(row, blocks, y_m, blocks, of_m, n), Row<T, K>(row, blocks, y_p, blocks, of_p, n);
    else RowOf<T>(k, row, blocks, y_m, blocks, of_m, n), RowOf<T>(k, row, blocks, y_p, blocks, of_p, n);
    for (int64_t o = 0; o < k; ++o) {
      T* __restrict w = row + o * blocks;
      const T *dm = d_m + o * blocks, *dp = d_p + o * blocks;
      for (int64_t j = 0; j < n; ++j) {
        const T change = f[j] * (dp[j] * of_m[j] + dm[j] * of_p[j]);
        w[j] = f[j] == 0 ? w[j] : own[j] * w[j] + change;
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
  for (const int64_t end = first + n; first < end; first += kLanes) {
    T *w = theta + i * s.k * s.hidden + first, *squares = second + i * s.blocks + first;
    const T *y_m = of.Up(i, 0) + first, *y_p = of.Up(i, 1) + first;
    const T *d_m = of.Down(i, 0) + first, *d_p = of.Down(i, 1) + first;
    const int64_t count = std::min(kLanes, end - first);
    const auto learn = s.k == 4 ? Learn<T, 4> : s.k == 2 ? Learn<T, 2> : s.k == 8 ? Learn<T, 8> : Learn<T, 0>;
    learn(step, s.k, s.blocks, w, squares, y_m, y_p, d_m, d_p, count);
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
