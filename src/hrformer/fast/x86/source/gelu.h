// GELU, exact but for float32 rounding: x times the normal distribution function, and its slope.

#pragma once

#include "vectors.h"

// GELU and its slope at one place.
struct Activated {
  vec value, slope;
};

#ifdef __AVX512F__

// GELU is relu(x) - T(|x|) with T(a) = a Q(a), Q the normal distribution's tail beyond a; its slope is S(|x|) below zero
// and 1 - S(|x|) above, S(a) = Q(a) - a times the density. Both are polynomials of degree 4 around the middle of 32
// pieces, 5.3 to the unit, with the smallest largest error (Lawson's iteration in float64). Row k holds the factors
// of the k-th powers; a register holds half a row, so that looking a factor up is one permutation. The first factor is
// zero, not the -4e-11 of the best polynomial, so that GELU of zero is zero.
static const float TAILS[5][32] = {
    {0.0f, 0.0802211538f, 0.133190036f, 0.161707968f, 0.169969365f, 0.162961453f, 0.145812854f,
     0.123215295f, 0.0990097523f, 0.0759790167f, 0.0558379702f, 0.0393746458f, 0.0266771689f, 0.0173828676f,
     0.0109011801f, 0.00658309832f, 0.00382975256f, 0.00214700541f, 0.00116018183f, 0.000604415254f, 0.000303619658f,
     0.000147083876f, 6.87204592e-05f, 3.09692005e-05f, 1.34625516e-05f, 5.64551738e-06f, 2.28391741e-06f,
     8.91405307e-07f, 3.35662889e-07f, 1.21948844e-07f, 4.27473594e-08f, 1.44579779e-08f},
    {0.094339624f, 0.0662694797f, 0.0401426107f, 0.0176028237f, -0.000237439817f, -0.0129135624f, -0.0205945447f,
     -0.0239569079f, -0.0239903387f, -0.02178788f, -0.0183668919f, -0.0145494211f, -0.0109098284f, -0.00778009463f,
     -0.00529327383f, -0.00344359293f, -0.00214566616f, -0.0012820781f, -0.000735334703f, -0.000405136787f,
     -0.000214549291f, -0.00010926347f, -5.35329964e-05f, -2.52414084e-05f, -1.14571048e-05f, -5.00738088e-06f,
     -2.10771077e-06f, -8.54582481e-07f, -3.3381616e-07f, -1.25640739e-07f, -4.55696352e-08f, -1.59290128e-08f},
    {-0.0142023452f, -0.0137033658f, -0.0122845303f, -0.0101615665f, -0.0076401215f, -0.00505118771f, -0.0026878526f,
     -0.000758785871f, 0.000632746203f, 0.00148392969f, 0.00186813215f, 0.00190154416f, 0.00171077112f,
     0.00140839559f, 0.00107941125f, 0.000777785084f, 0.000530190126f, 0.000343327876f, 0.000211819861f,
     0.000124778831f, 7.0297705e-05f, 3.79244266e-05f, 1.96115798e-05f, 9.72917678e-06f, 4.63340893e-06f,
     2.11947599e-06f, 9.31673412e-07f, 3.93713151e-07f, 1.60002344e-07f, 6.25506829e-08f, 2.35293367e-08f,
     8.5184011e-09f},
    {2.77097257e-07f, 0.00032736329f, 0.000604019384f, 0.000790763879f, 0.000868010102f, 0.000838352717f,
     0.000723324483f, 0.000555939914f, 0.000371701637f, 0.000200781651f, 6.31987205e-05f, -3.24377215e-05f,
     -8.72445744e-05f, -0.000108715787f, -0.000107069762f, -9.22965191e-05f, -7.23684789e-05f, -5.25970318e-05f,
     -3.58173456e-05f, -2.30084879e-05f, -1.40064676e-05f, -8.10631809e-06f, -4.47110006e-06f, -2.3544826e-06f,
     -1.18546654e-06f, -5.71339001e-07f, -2.63824404e-07f, -1.16812224e-07f, -4.96244077e-08f, -2.02383355e-08f,
     -7.92740629e-09f, -2.9836027e-09f},
    {8.37964544e-05f, 7.74751461e-05f, 5.92047472e-05f, 3.33508033e-05f, 5.39362827e-06f, -1.93035794e-05f,
     -3.68130313e-05f, -4.5384957e-05f, -4.54723086e-05f, -3.91593494e-05f, -2.92857567e-05f, -1.85932367e-05f,
     -9.13436361e-06f, -2.03425316e-06f, 2.43880436e-06f, 4.61731497e-06f, 5.1294378e-06f, 4.64278764e-06f,
     3.70987982e-06f, 2.70385021e-06f, 1.82786152e-06f, 1.15754438e-06f, 6.91090747e-07f, 3.90697352e-07f,
     2.09811631e-07f, 1.07283839e-07f, 5.233019e-08f, 2.43845992e-08f, 1.08676357e-08f, 4.63693484e-09f,
     1.89563165e-09f, 7.43019868e-10f},
};

static const float SLOPES[5][32] = {
    {0.5f, 0.351227969f, 0.212755367f, 0.093294397f, -0.00125899247f, -0.0684423298f, -0.109151356f, -0.126971707f,
     -0.127148718f, -0.115475588f, -0.0973443016f, -0.0771117136f, -0.0578219183f, -0.0412343815f, -0.0280542858f,
     -0.0182510167f, -0.0113720326f, -0.00679503055f, -0.00389729487f, -0.00214724499f, -0.0011371274f,
     -0.000579108077f, -0.000283732661f, -0.000133784299f, -6.0725466e-05f, -2.65406616e-05f, -1.11716699e-05f,
     -4.52968425e-06f, -1.76941262e-06f, -6.65979826e-07f, -2.41555057e-07f, -8.44385113e-08f},
    {-0.150544167f, -0.14525564f, -0.130216002f, -0.107712604f, -0.0809853002f, -0.0535426103f, -0.0284912642f,
     -0.00804315507f, 0.00670709182f, 0.0157296453f, 0.0198021978f, 0.0201563723f, 0.0181341805f, 0.0149290003f,
     0.0114417654f, 0.00824452657f, 0.00562001951f, 0.00363927661f, 0.00224529067f, 0.00132265512f, 0.000745155092f,
     0.000401998346f, 0.000207882287f, 0.00010312895f, 4.91139217e-05f, 2.24663163e-05f, 9.87566546e-06f,
     4.17332103e-06f, 1.69600548e-06f, 6.63028004e-07f, 2.4940681e-07f, 9.02932626e-08f},
    {-1.38866244e-06f, 0.00521791819f, 0.00962666795f, 0.0126008252f, 0.0138283242f, 0.0133512588f, 0.0115139121f,
     0.00884350576f, 0.00590653112f, 0.00318390178f, 0.00099423225f, -0.000526036136f, -0.0013955246f,
     -0.00173431565f, -0.00170562486f, -0.00146873703f, -0.00115057011f, -0.00083551096f, -0.000568485993f,
     -0.000364878564f, -0.000221930037f, -0.000128330052f, -7.07170911e-05f, -3.72046597e-05f, -1.87140868e-05f,
     -9.01022304e-06f, -4.15626528e-06f, -1.83826057e-06f, -7.80060248e-07f, -3.17764119e-07f, -1.2432011e-07f,
     -4.67319943e-08f},
    {0.00179423694f, 0.00164220936f, 0.00125497067f, 0.00070699252f, 0.000114418894f, -0.000409072993f,
     -0.000780234346f, -0.00096196821f, -0.000963868108f, -0.000830099918f, -0.000620842155f, -0.000394205388f,
     -0.000193702203f, -4.31853114e-05f, 5.16514265e-05f, 9.78501339e-05f, 0.000108715634f, 9.84175786e-05f,
     7.86482851e-05f, 5.73247125e-05f, 3.87553446e-05f, 2.45445062e-05f, 1.46548027e-05f, 8.28540942e-06f,
     4.44971556e-06f, 2.27544751e-06f, 1.10998099e-06f, 5.17261753e-07f, 2.30548494e-07f, 9.83765531e-08f,
     4.0220641e-08f, 1.57663376e-08f},
    {-1.78271766e-05f, -6.85261257e-05f, -0.000121414509f, -0.000147657338f, -0.000143830592f, -0.000114423099f,
     -6.96308416e-05f, -2.1685335e-05f, 1.88364611e-05f, 4.54932233e-05f, 5.66919589e-05f, 5.48157914e-05f,
     4.4462442e-05f, 3.05861868e-05f, 1.71502106e-05f, 6.51962546e-06f, -4.8999118e-07f, -4.17294814e-06f,
     -5.38722543e-06f, -5.1014531e-06f, -4.12184863e-06f, -2.98883197e-06f, -1.99135411e-06f, -1.2351328e-06f,
     -7.18989384e-07f, -3.94946028e-07f, -2.05510716e-07f, -1.01590267e-07f, -4.78122431e-08f, -2.1460572e-08f,
     -9.19937371e-09f, -3.77034404e-09f},
};

// The piece that |x| lies in, and where: -0.5 to 0.5.
struct Place {
  __m512i piece;
  vec offset;
};

static INLINE Place place_of(vec x) {
  const float pieces = 5.3f, limit = 31.49f / pieces;
  const vec shift = splat(12582912);  // 1.5 * 2^23: what is added to it is rounded to a whole number in the lowest bits
  vec a = smaller((vec)_mm512_abs_ps((__m512)x), splat(limit));
  vec shifted = a * splat(pieces) + shift;
  return {(__m512i)shifted, a * splat(pieces) - (shifted - shift)};
}

static INLINE vec factor_of(const float* row, __m512i piece) {
  return (vec)_mm512_permutex2var_ps(_mm512_loadu_ps(row), piece, _mm512_loadu_ps(row + 16));
}

static INLINE vec polynomial(const float (*rows)[32], const Place& at) {
  vec value = factor_of(rows[4], at.piece);
#pragma GCC unroll 4
  for (int k = 3; k >= 0; k--) value = value * at.offset + factor_of(rows[k], at.piece);
  return value;
}

static INLINE vec gelu_at(vec x, const Place& at) { return larger(splat(0), x) - polynomial(TAILS, at); }

static INLINE vec slope_at(vec x, const Place& at) {
  const vec below = polynomial(SLOPES, at);
  const vec slope = x > splat(0) ? splat(1) - below : below;
  return x == x ? slope : x;
}

// Within 1e-7 * max(1, |x|). NaN gives NaN.
static INLINE vec gelu(vec x) { return gelu_at(x, place_of(x)); }

// Within 2e-7. NaN gives NaN.
static INLINE vec gelu_slope(vec x) { return slope_at(x, place_of(x)); }

static INLINE Activated gelu_and_slope(vec x) {
  const Place at = place_of(x);
  return {gelu_at(x, at), slope_at(x, at)};
}

#else

// Normal distribution function at z: 0.5 + z P(z * z), P the polynomial with the smallest largest error of z P(z * z)
// over |z| <= 5.25 (Lawson's iteration in float64, Chebyshev points), in the variable that runs from -1 to 1 there.
static INLINE vec normal_cdf(vec x) {
  const float limit = 5.25f;
  static const float c[15] = {0.134659347f,   -0.0671267735f,  0.0496456784f,   -0.0397648765f, 0.0320339745f,
                              -0.025027584f,  0.0185177533f,   -0.0128344356f,  0.00849607889f, -0.00533174822f,
                              0.00274722325f, -0.00114863366f, 0.000794798022f, -0.000617829005f, 0.000195109454f};
  vec z = smaller(larger(x, splat(-limit)), splat(limit));
  vec u = z * z * splat(2 / (limit * limit)) - splat(1);
  // Even and odd powers apart: half as long a chain of operations that wait for each other.
  vec v = u * u, even = splat(c[14]), odd = splat(c[13]);
#pragma GCC unroll 8
  for (int k = 12; k >= 0; k -= 2) even = even * v + splat(c[k]);
#pragma GCC unroll 8
  for (int k = 11; k > 0; k -= 2) odd = odd * v + splat(c[k]);
  return z * (odd * u + even) + splat(0.5f);
}

// Within 1.4e-7 * max(1, |x|). NaN gives NaN.
static INLINE vec gelu(vec x) { return x * normal_cdf(x); }

static INLINE Activated gelu_and_slope(vec x) {
  const vec cdf = normal_cdf(x), z = smaller(larger(x, splat(-13)), splat(13));
  const vec density = exp_of_negative(z * z * splat(-0.5f)) * splat(0.398942280f);
  return {x * cdf, cdf + x * density};
}

static INLINE vec gelu_slope(vec x) { return gelu_and_slope(x).slope; }

#endif
