// GELU, exact but for float32 rounding: x times the normal distribution function.

#pragma once

#include "vectors.h"

#if LANES == 16

// GELU is relu(x) - T(|x|) with T(a) = a times the normal distribution's tail beyond a. Sixths from 0 to 5.25 have a
// polynomial of degree 4 each around their middle (smallest largest error, Lawson's iteration in float64); row k holds
// the factors of the k-th powers. A register holds half a row, so that looking a factor up is one permutation.
static const float TAILS[5][32] = {
    {-1.96571578e-11f, 0.0723026916f, 0.123147115f, 0.154268771f, 0.16832836f, 0.168606982f, 0.158655256f,
     0.141951248f, 0.121614963f, 0.100210801f, 0.0796505883f, 0.0611902624f, 0.0455002636f, 0.0327819698f,
     0.0229024328f, 0.0155241629f, 0.0102143483f, 0.0065259207f, 0.00404969417f, 0.00244145188f, 0.00143020111f,
     0.000814201776f, 0.000450510095f, 0.000242302063f, 0.000126684972f, 6.43929088e-05f, 3.18215061e-05f,
     1.528953e-05f, 7.14292582e-06f, 3.24475468e-06f, 1.43325815e-06f, 6.15623264e-07f},
    {0.0833333358f, 0.0613738373f, 0.0406078659f, 0.0220842026f, 0.00658792583f, -0.00543297688f, -0.0138858715f,
     -0.0189987477f, -0.0212448053f, -0.0212448724f, -0.0196674969f, -0.01714346f, -0.0142053226f, -0.0112556666f,
     -0.00856152922f, -0.00626852503f, -0.00442649191f, -0.00301900529f, -0.00199094112f, -0.00127062725f,
     -0.00078530953f, -0.00047029127f, -0.000273019134f, -0.000153703033f, -8.39405111e-05f, -4.44811703e-05f,
     -2.28767767e-05f, -1.14212171e-05f, -5.53608061e-06f, -2.6057271e-06f, -1.1911003e-06f, -5.28822795e-07f},
    {-0.011081757f, -0.0107770814f, -0.00990047865f, -0.0085571399f, -0.00690165535f, -0.00511183217f,
     -0.00336071104f, -0.00179243402f, -0.000506210781f, 0.000449708576f, 0.00107459549f, 0.00140480092f,
     0.0014997496f, 0.00142778107f, 0.00125444436f, 0.00103465875f, 0.000808976125f, 0.000603289751f, 0.000430874759f,
     0.000295576057f, 0.000195165063f, 0.000124236016f, 7.63391654e-05f, 4.53243447e-05f, 2.60223824e-05f,
     1.4457024e-05f, 7.77613786e-06f, 4.0513678e-06f, 2.04532125e-06f, 1.0008963e-06f, 4.74908802e-07f,
     2.18541871e-07f},
    {1.31705221e-07f, 0.000200593218f, 0.000376763026f, 0.000508452067f, 0.000583318819f, 0.00059834728f,
     0.000559469569f, 0.000479471462f, 0.000374848256f, 0.000262442307f, 0.00015662513f, 6.75105111e-05f,
     3.61287078e-07f, -4.3973454e-05f, -6.79416189e-05f, -7.5906144e-05f, -7.28526429e-05f, -6.34137468e-05f,
     -5.12944716e-05f, -3.90676505e-05f, -2.82411784e-05f, -1.94774948e-05f, -1.28630045e-05f, -8.15556359e-06f,
     -4.97424935e-06f, -2.9229966e-06f, -1.65684958e-06f, -9.0681209e-07f, -4.79601283e-07f, -2.45280575e-07f,
     -1.21369922e-07f, -5.81343969e-08f},
    {5.1080875e-05f, 4.80619492e-05f, 3.91833273e-05f, 2.61465539e-05f, 1.11644786e-05f, -3.39700705e-06f,
     -1.55021717e-05f, -2.38037137e-05f, -2.78029529e-05f, -2.78011594e-05f, -2.46889995e-05f, -1.96538367e-05f,
     -1.38907553e-05f, -8.38331198e-06f, -3.7858058e-06f, -4.05702991e-07f, 1.73947183e-06f, 2.8267491e-06f,
     3.1282741e-06f, 2.92494042e-06f, 2.46220498e-06f, 1.91713434e-06f, 1.4008682e-06f, 9.69034318e-07f,
     6.38185099e-07f, 4.01728272e-07f, 2.42404496e-07f, 1.40510465e-07f, 7.83724303e-08f, 4.21193533e-08f,
     2.18339089e-08f, 1.09269207e-08f},
};

static INLINE vec tail_factor(int power, __m512i segment) {
  return (vec)_mm512_permutex2var_ps(_mm512_loadu_ps(TAILS[power]), segment, _mm512_loadu_ps(TAILS[power] + 16));
}

// Within 8e-8 * max(1, |x|). NaN gives NaN.
static INLINE vec gelu(vec x) {
  const float steps = 6, limit = 31.49f / steps;
  const vec shift = splat(12582912);  // 1.5 * 2^23: what is added to it is rounded to a whole number in the lowest bits
  vec a = smaller((vec)_mm512_abs_ps((__m512)x), splat(limit));
  vec shifted = a * splat(steps) + shift;
  vec r = a * splat(steps) - (shifted - shift);
  __m512i segment = (__m512i)shifted;
  vec tail = tail_factor(4, segment);
#pragma GCC unroll 4
  for (int k = 3; k >= 0; k--) tail = tail * r + tail_factor(k, segment);
  return larger(splat(0), x) - tail;
}

#else

// Within 1.4e-7 * max(1, |x|). NaN gives NaN.
static INLINE vec gelu(vec x) { return x * normal_cdf(x); }

#endif
