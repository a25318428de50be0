// Numbers of 16 bits (bfloat16) in memory, float32 in registers; sixteen lanes whatever the processor.
//
// HALF_EMULATED: without the instructions for bfloat16, by plain code that rounds as they do.

#pragma once

#include <pmmintrin.h>

#include "../vectors.h"

static_assert(LANES == 16, "tiles, and pairs of vectors, are made for sixteen lanes");

typedef uint16_t half;

// Channels of a map that are loaded and stored at once: two vectors.
static const int GROUP = 2 * LANES;

static INLINE int grouped(int count) { return (count + GROUP - 1) / GROUP * GROUP; }

// For as long as this lives, vector instructions of the calling thread take numbers below the smallest normal for zero,
// as those for bfloat16 do: a product with a small number would cost a hundred cycles.
struct Flushing {
  const unsigned before = _mm_getcsr();
  Flushing() { _mm_setcsr(before | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON); }
  ~Flushing() { _mm_setcsr(before); }
  Flushing(const Flushing&) = delete;
};

struct Pair {
  vec first, second;
};

static INLINE Pair operator+(Pair a, Pair b) { return {a.first + b.first, a.second + b.second}; }
static INLINE Pair operator*(vec a, Pair b) { return {a * b.first, a * b.second}; }
static INLINE Pair relu(Pair v) { return {relu(v.first), relu(v.second)}; }

#ifndef HALF_EMULATED

static INLINE __mmask32 mask_of(int n) { return n >= GROUP ? ~0u : (1u << n) - 1; }

// n <= 32 numbers in their order; zeros behind them. Memory behind them is not read.
static INLINE Pair load_halves(const half* p, int n) {
  const __m512i v = n >= GROUP ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(mask_of(n), p);
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(v));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(v, 1));
  return {(vec)_mm512_slli_epi32(low, 16), (vec)_mm512_slli_epi32(high, 16)};
}

// The same, those at even places and those at odd ones.
static INLINE Pair load_parted(const half* p, int n) {
  const __m512i v = n >= GROUP ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(mask_of(n), p);
  return {(vec)_mm512_slli_epi32(v, 16), (vec)_mm512_and_si512(v, _mm512_set1_epi32(0xffff0000))};
}

// To the nearest, the even one of two; numbers below the smallest normal become zero, NaN stays NaN.
static INLINE void store_halves(half* p, Pair v, int n = GROUP) {
  const __m512i made = (__m512i)_mm512_cvtne2ps_pbh((__m512)v.second, (__m512)v.first);
  if (n >= GROUP)
    _mm512_storeu_si512(p, made);
  else
    _mm512_mask_storeu_epi16(p, mask_of(n), made);
}

// 2^x, relative error 8.6e-5; 0 from about -126 on, infinite from 128 on. NaN gives NaN.
// The factors are those with the smallest largest relative error between 0 and 1 that give 1 at zero.
static INLINE vec power_of_two(vec x) {
  const vec part = (vec)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF);
  vec p = splat(0.0770672403f);
  p = p * part + splat(0.227644978f);
  p = p * part + splat(0.695116631f);
  p = p * part + splat(1);
  return (vec)_mm512_scalef_ps((__m512)p, (__m512)x);  // takes the whole part of x
}

// x between -limit and limit.
static INLINE vec bounded(vec x, float limit) {
  return (vec)_mm512_range_ps((__m512)x, (__m512)splat(limit), 2);
}

// Of a table of 32 numbers those that the last five bits tell.
static INLINE vec look_up(const float* table, ivec at) {
  return (vec)_mm512_permutex2var_ps((__m512)load(table), (__m512i)at, (__m512)load(table + LANES));
}

// n <= 32 numbers, and zeros behind them.
static INLINE void copy_group(half* to, const half* from, int n) {
  const __mmask32 taken = n > 0 ? mask_of(n) : 0;
  _mm512_storeu_si512(to, _mm512_maskz_loadu_epi16(taken, from));
}

#else

static INLINE void copy_group(half* to, const half* from, int n) {
  for (int i = 0; i < GROUP; i++) to[i] = i < n ? from[i] : 0;
}

static INLINE float wide(half h) {
  const uint32_t bits = (uint32_t)h << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Numbers below the smallest normal count as zero, in the operands and in the results.
static INLINE float normal(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits & 0x7f800000 ? value : __builtin_copysignf(0, value);
}

static INLINE half narrow(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (value != value) return (half)(bits >> 16 | 0x40);
  if ((bits & 0x7f800000) == 0) return (half)(bits >> 16 & 0x8000);
  return (half)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct Numbers {
  float floats[GROUP];
};

static INLINE Pair load_halves(const half* p, int n) {
  Numbers v = {};
  for (int i = 0; i < GROUP && i < n; i++) v.floats[i] = wide(p[i]);
  return {load(v.floats), load(v.floats + LANES)};
}

static INLINE Pair load_parted(const half* p, int n) {
  Numbers v = {};
  for (int i = 0; i < GROUP && i < n; i++) v.floats[i % 2 * LANES + i / 2] = wide(p[i]);
  return {load(v.floats), load(v.floats + LANES)};
}

static INLINE void store_halves(half* p, Pair v, int n = GROUP) {
  Numbers numbers;
  store(numbers.floats, v.first);
  store(numbers.floats + LANES, v.second);
  for (int i = 0; i < GROUP && i < n; i++) p[i] = narrow(numbers.floats[i]);
}

static INLINE vec power_of_two(vec argument) {
  const vec shift = splat(12582912), x = smaller(larger(argument, splat(-127)), splat(128));  // 1.5 * 2^23: rounds
  const vec nearest = (x + shift) - shift, whole = nearest > x ? nearest - splat(1) : nearest, part = x - whole;
  vec p = splat(0.0770672403f);
  p = p * part + splat(0.227644978f);
  p = p * part + splat(0.695116631f);
  p = p * part + splat(1);
  const ivec exponent = __builtin_convertvector(whole, ivec) + 127;
  const vec scaled = p * (vec)(exponent << 23);
  return argument == argument ? (argument < splat(-126) ? splat(0) : scaled) : argument;
}

static INLINE vec bounded(vec x, float limit) { return smaller(larger(x, splat(-limit)), splat(limit)); }

// Not inline: many lines of code at every use would keep the compiler busy for minutes.
__attribute__((noinline)) static vec look_up(const float* table, ivec at) {
  Numbers found;
  for (int i = 0; i < LANES; i++) found.floats[i] = table[at[i] & 31];
  return load(found.floats);
}

#endif

// Vectors that are computed side by side: each waits for its own last result, so that fewer would leave units idle.
static const int TOGETHER = 4;

// GELU within 1e-4, by parabolas: for each of 29 intervals of 0.2828, numbered from the one around zero, that with the
// smallest largest error (linear programming in float64); around zero that which keeps GELU(0) and the slope there. From
// 4.1 on x, below -4.1 zero. Looking factors up takes other units than sums do, even while tiles are multiplied, and
// fewer instructions than one polynomial. NaN gives NaN.
alignas(64) static const float GELU_SQUARE[2 * LANES] = {
    0.397844285f, 0.366615355f, 0.284963757f, 0.178379327f, 0.0765618011f, 0.00100098131f, -0.0407711267f,
    -0.0534919463f, -0.0479549617f, -0.0350443758f, -0.0220459774f, -0.0122370515f, -0.00607353635f,
    -0.00271721161f, -0.00110148429f, 0, 0, 0, -0.00110312074f, -0.00271728728f, -0.00607353635f, -0.0122370515f,
    -0.0220459774f, -0.0350443758f, -0.0479549617f, -0.053491883f, -0.0407711267f, 0.00100098131f, 0.0765618011f,
    0.178379327f, 0.284963757f, 0.366615355f
};
alignas(64) static const float GELU_SLOPE[2 * LANES] = {
    0.5f, 0.511319339f, 0.582343102f, 0.733451545f, 0.934190929f, 1.12503612f, 1.25349522f, 1.29919755f,
    1.27516997f, 1.21298003f, 1.14324522f, 1.08516788f, 1.04523146f, 1.02160525f, 1.00932598f, 1, 0, 0,
    -0.00933902245f, -0.0216057748f, -0.045231428f, -0.085167855f, -0.143245235f, -0.212980017f, -0.275169998f,
    -0.299197376f, -0.253495187f, -0.12503615f, 0.0658090413f, 0.266548455f, 0.417656869f, 0.488680661f
};
alignas(64) static const float GELU_START[2 * LANES] = {
    0, -0.00103055139f, -0.0165987145f, -0.0703299567f, -0.169437826f, -0.290061206f, -0.38887918f, -0.429929405f,
    -0.403868556f, -0.328956395f, -0.235405684f, -0.149422914f, -0.0847214907f, -0.0431384072f, -0.019806182f, 0, 0,
    0, -0.0198320802f, -0.0431394614f, -0.0847214907f, -0.149422914f, -0.235405684f, -0.328956395f, -0.403868556f,
    -0.429929167f, -0.38887918f, -0.290061206f, -0.169437826f, -0.0703299567f, -0.0165987145f, -0.00103055139f
};

static INLINE void half_gelu(vec (&x)[TOGETHER]) {
  const vec shift = splat(12582912);  // 1.5 * 2^23: adding it rounds, and leaves the number in the last bits
  vec p[TOGETHER];
  ivec at[TOGETHER];
#define EACH(statement) \
  _Pragma("GCC unroll 4") for (int i = 0; i < TOGETHER; i++) statement
  EACH(at[i] = (ivec)(bounded(x[i], 4.24137926f) * splat(3.53658533f) + shift));
  EACH(p[i] = look_up(GELU_SQUARE, at[i]) * x[i] + look_up(GELU_SLOPE, at[i]));
  EACH(x[i] = p[i] * x[i] + look_up(GELU_START, at[i]));
#undef EACH
}

// Two pairs after an activation, numbered as `enum Activation` of ../activation.h.
static INLINE void activate(Pair (&v)[2], int activation) {
  if (activation == 1) {
    vec x[TOGETHER] = {v[0].first, v[0].second, v[1].first, v[1].second};
    half_gelu(x);
    v[0] = {x[0], x[1]};
    v[1] = {x[2], x[3]};
  } else if (activation == 2) {
    v[0] = relu(v[0]);
    v[1] = relu(v[1]);
  }
}

static INLINE Pair load_floats(const float* p) { return {load(p), load(p + LANES)}; }

static INLINE void store_floats(float* p, Pair v) {
  store(p, v.first);
  store(p + LANES, v.second);
}

// This many numbers in the buffers that threads keep, see ../memory.cpp.
static INLINE half* half_buffer(float* (*buffer)(size_t), size_t halves) {
  return (half*)buffer((halves + 1) / 2);
}

// The largest, or the sum, of all lanes of four vectors: every four lanes of the result hold the four.
template <class Both> static INLINE vec of_four(const vec (&v)[4], Both both) {
  const ivec low = {0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29};
  const ivec high = {2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31};
  const ivec even = {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29};
  const ivec odd = {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31};
  const ivec quarter = {4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11};
  const ivec halves = {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7};
  const vec first = both(__builtin_shuffle(v[0], v[1], low), __builtin_shuffle(v[0], v[1], high));
  const vec second = both(__builtin_shuffle(v[2], v[3], low), __builtin_shuffle(v[2], v[3], high));
  vec all = both(__builtin_shuffle(first, second, even), __builtin_shuffle(first, second, odd));
  all = both(all, __builtin_shuffle(all, quarter));
  return both(all, __builtin_shuffle(all, halves));
}

// The first n of the numbers at p, `other` in the lanes behind them. All are read.
static INLINE vec first_or(const float* p, int n, float other) {
  ivec lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  return lane < n ? load(p) : splat(other);
}

// In the first four lanes 1 / sqrt of those of v.
static INLINE vec four_roots(vec v) {
#ifndef HALF_EMULATED
  const __m128 roots = _mm_sqrt_ps(_mm512_castps512_ps128((__m512)v));
  return (vec)_mm512_castps128_ps512(_mm_div_ps(_mm_set1_ps(1), roots));
#else
  vec made = splat(0);
  for (int i = 0; i < 4; i++) made[i] = 1 / __builtin_sqrtf(v[i]);
  return made;
#endif
}

// Layer norm of four tokens side by side, without gain and shift: mean, then squared deviations from it; `count` of them
// are written. Groups of the result lie `apart`. Of every group, the channels at even places come first, then those at
// odd ones: the weights behind it are packed in that order. What follows the last channel up to the end of its group
// is finite.
static INLINE void half_normalise(const half* const (&x)[4], int count, half* y, size_t apart, int channels,
                                  float eps) {
  const int whole = channels - channels % GROUP, left = channels - whole;
  const vec share = splat(1.0f / channels);
  const auto sum_of_both = [](vec a, vec b) { return a + b; };
  vec sum[4] = {}, squares[4] = {}, mean[4], scale[4];
#define EACH(...) \
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) __VA_ARGS__
  for (int c = 0; c < channels; c += GROUP) EACH({
    const Pair v = load_parted(x[i] + c, channels - c);
    sum[i] += v.first + v.second;
  });
  const vec means = of_four(sum, sum_of_both) * share;
  EACH(mean[i] = splat(means[i]));
  for (int c = 0; c < whole; c += GROUP) EACH({
    const Pair v = load_parted(x[i] + c, GROUP);
    const vec first = v.first - mean[i], second = v.second - mean[i];
    squares[i] += first * first;
    squares[i] += second * second;
  });
  if (left) EACH({
    const Pair v = load_parted(x[i] + whole, left);
    const vec first = first_lanes(v.first - mean[i], (left + 1) / 2);
    const vec second = first_lanes(v.second - mean[i], left / 2);
    squares[i] += first * first;
    squares[i] += second * second;
  });
  const vec scales = four_roots(of_four(squares, sum_of_both) * share + splat(eps));
  EACH(scale[i] = splat(scales[i]));
  EACH(mean[i] *= scale[i]);
  for (int c = 0; c < channels; c += GROUP, y += apart) EACH({
    const Pair v = load_parted(x[i] + c, channels - c);
    if (i < count) store_halves(y + i * GROUP, {v.first * scale[i] - mean[i], v.second * scale[i] - mean[i]});
  });
#undef EACH
}

// Tokens begin to end, `from(token)` where each is; the first group of their rows from `y` on.
template <class From>
static INLINE void half_normalise_all(From from, int begin, int end, half* y, size_t apart, int channels, float eps) {
  for (int t = begin; t < end; t += 4) {
    const int last = end - 1;
    const half* const four[4] = {from(t), from(t + 1 < end ? t + 1 : last), from(t + 2 < end ? t + 2 : last),
                                 from(t + 3 < end ? t + 3 : last)};
    half_normalise(four, end - t, y + (size_t)t * GROUP, apart, channels, eps);
  }
}
