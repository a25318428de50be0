// Vectors of LANES floats, by the vector extension that GCC and Clang share, and the functions on them.
//
// LANES and the instruction set are the build's: 16 with AVX-512, 8 with AVX2. See ../build.py.

#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static INLINE vec load(const float* p) { return *(const vec*)p; }
static INLINE void store(float* p, vec v) { *(vec*)p = v; }
static INLINE vec splat(float x) { return x - (vec){}; }

static INLINE int vectors_of(int count) { return (count + LANES - 1) / LANES; }
static INLINE int filled(int count) { return vectors_of(count) * LANES; }

// The first n lanes, 0 < n <= LANES; memory behind them is neither read nor written, the others are zero.
static INLINE vec load_part(const float* p, int n) {
  if (n >= LANES) return load(p);
#ifdef __AVX512F__
  return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  vec v = {};
  memcpy(&v, p, n * sizeof(float));
  return v;
#endif
}

static INLINE void store_part(float* p, vec v, int n) {
  if (n >= LANES) return store(p, v);
#ifdef __AVX512F__
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
  memcpy(p, &v, n * sizeof(float));
#endif
}

// v with zeros from lane n on.
static INLINE vec first_lanes(vec v, int n) {
  ivec lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  return (vec)((ivec)v & (lane < n));
}

// The second of the two where one is NaN, as the instructions have it.
#ifdef __AVX512F__
static INLINE vec smaller(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
static INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
static INLINE vec root(vec a) { return (vec)_mm512_sqrt_ps((__m512)a); }
#elif LANES == 16  // for an emulation of wider instructions
static INLINE vec smaller(vec a, vec b) { return a < b ? a : b; }
static INLINE vec larger(vec a, vec b) { return a > b ? a : b; }
static INLINE vec root(vec a) {
  for (int i = 0; i < LANES; i++) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
#else
static INLINE vec smaller(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
static INLINE vec larger(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
static INLINE vec root(vec a) { return (vec)_mm256_sqrt_ps((__m256)a); }
#endif

// NaN stays NaN.
static INLINE vec relu(vec x) { return larger(splat(0), x); }

// Of all lanes, halving: a chain of additions as long as a vector would wait for each of them.
static INLINE float sum_of(vec v) {
#ifdef __AVX512F__
  return _mm512_reduce_add_ps((__m512)v);
#elif LANES == 16
  float sum = 0;
  for (int i = 0; i < LANES; i++) sum += v[i];
  return sum;
#else
  __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#endif
}

static INLINE float largest_of(vec v) {
#ifdef __AVX512F__
  return _mm512_reduce_max_ps((__m512)v);
#elif LANES == 16
  float largest = v[0];
  for (int i = 1; i < LANES; i++) largest = v[i] > largest ? v[i] : largest;
  return largest;
#else
  __m128 half = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
#endif
}

// exp(x) for finite x <= 0, relative error about 1e-7, at least exp(-87): 2^n times a polynomial on half an octave
// around zero (Taylor, 7 terms). NaN gives NaN.
static INLINE vec exp_of_negative(vec argument) {
  vec x = larger(argument, splat(-87.0f));
  vec n = x * splat(1.44269504f);
  ivec whole = __builtin_convertvector(n - splat(0.5f), ivec);  // towards zero, hence to the nearest for n <= 0
  vec rounded = __builtin_convertvector(whole, vec);
  vec r = x - rounded * splat(0.693359375f) + rounded * splat(2.12194440e-4f);
  vec p = splat(1.0f / 720);
  p = p * r + splat(1.0f / 120);
  p = p * r + splat(1.0f / 24);
  p = p * r + splat(1.0f / 6);
  p = p * r + splat(0.5f);
  p = p * r + splat(1);
  p = p * r + splat(1);
  return p * (vec)((whole + 127) << 23) + argument * splat(0);  // the comparison above lost a NaN
}

// A buffer of the calling thread, at least this many floats, 64 bytes aligned; kept for its next call.
float* thread_buffer(size_t floats);

// Another one, for what the calling thread shares with those that work for it.
float* shared_buffer(size_t floats);

// One more, for the rows of a product in another precision.
float* product_buffer(size_t floats);
