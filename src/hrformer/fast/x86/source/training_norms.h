// Norms and GELU of the training kernels, with their gradients: statistics of a batch, batch norm, layer norm.

#pragma once

#include "gelu.h"
#include "training_work.h"
#include "transpose.h"

struct Running {
  float *mean, *var;  // (channels)
  float momentum, eps;
};

// Count, means and sums of squared deviations of the tokens seen so far, per channel.
struct Moments {
  double count;
  double *mean, *squares;  // (filled channels)
};

static INLINE Moments empty_moments(Pieces& pieces, int channels) {
  Moments m = {0, pieces.doubles(filled(channels)), pieces.doubles(filled(channels))};
  memset(m.mean, 0, filled(channels) * sizeof(double));
  memset(m.squares, 0, filled(channels) * sizeof(double));
  return m;
}

static INLINE size_t moments_floats(int channels) { return 2 * whole_lines(2 * filled(channels)); }

// What `count` more tokens weigh beside those seen so far.
struct Weight {
  double share, both;
  Weight(const Moments& m, double count) : share(count / (m.count + count)), both(m.count * share) {}
};

static INLINE void merge(Moments& m, int c, double mean, double squares, const Weight& weight) {
  const double delta = mean - m.mean[c];
  m.mean[c] += delta * weight.share;
  m.squares[c] += squares + delta * delta * weight.both;
}

// V vectors of channels of a band, two passes: mean, then deviations from it. The last vector holds `part` channels.
template <int V, class Map>
static INLINE void add_vectors(Moments& m, const Map* z, int tokens, size_t stride, int channel, int part) {
  vec sum[V] = {}, off[V] = {}, squares[V] = {}, mean[V];
  for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const Map* at = z + t * stride + v * LANES;
      ask(at + SOON * stride);
      sum[v] += load_part(at, v == V - 1 ? part : LANES);
    }
  for (int v = 0; v < V; v++) mean[v] = sum[v] / splat((float)tokens);
  for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      vec d = load_part(z + t * stride + v * LANES, v == V - 1 ? part : LANES) - mean[v];
      off[v] += d;
      squares[v] += d * d;
    }
  const Weight weight(m, tokens);
  const double each = 1.0 / tokens;
  for (int v = 0; v < V; v++)
    for (int i = 0; i < (v == V - 1 ? part : LANES); i++)
      merge(m, channel + v * LANES + i, mean[v][i] + off[v][i] * each, squares[v][i], weight);
}

// All channels of a band of tokens.
template <class Map>
static __attribute__((noinline, unused)) void add_band(Moments& m, const Map* z, int tokens, size_t stride,
                                                       int channels) {
  for (int c = 0; c < channels; c += 4 * LANES) {
    const int left = vectors_of(channels - c) < 4 ? vectors_of(channels - c) : 4;
    const int rest = channels - c - (left - 1) * LANES, part = rest < LANES ? rest : LANES;
    if (left == 4)
      add_vectors<4>(m, z + c, tokens, stride, c, part);
    else if (left == 3)
      add_vectors<3>(m, z + c, tokens, stride, c, part);
    else if (left == 2)
      add_vectors<2>(m, z + c, tokens, stride, c, part);
    else
      add_vectors<1>(m, z + c, tokens, stride, c, part);
  }
  m.count += tokens;
}

// Mean and 1 / standard deviation from the parts' moments; moves the running statistics as nn.BatchNorm2d does.
static inline void finish_moments(Moments* parts, int count, int channels, const Running& running, float* mean,
                                  float* rstd) {
  Moments all = parts[0];
  for (int p = 1; p < count; p++) {
    if (parts[p].count == 0) continue;
    const Weight weight(all, parts[p].count);
    for (int c = 0; c < channels; c++) merge(all, c, parts[p].mean[c], parts[p].squares[c], weight);
    all.count += parts[p].count;
  }
  for (int c = 0; c < channels; c++) {
    mean[c] = (float)all.mean[c];
    rstd[c] = (float)(1 / __builtin_sqrt(all.squares[c] / all.count + running.eps));
    const double move = running.momentum;
    running.mean[c] = (float)(move * all.mean[c] + (1 - move) * running.mean[c]);
    running.var[c] = (float)(move * (all.squares[c] / (all.count - 1)) + (1 - move) * running.var[c]);
  }
}

// A batch norm with the statistics of the batch; zeros beyond the channels.
struct Norm {
  float *mean, *scale, *shift;  // (filled channels); normalised = scale * x + shift
};

static inline Norm norm_of(Pieces& pieces, int channels, const float* mean, const float* rstd, const float* weight,
                           const float* bias) {
  const int all = filled(channels);
  Norm norm = {pieces.floats(all), pieces.floats(all), pieces.floats(all)};
  for (int c = 0; c < all; c++) {
    const bool real = c < channels;
    norm.mean[c] = real ? mean[c] : 0;
    norm.scale[c] = real ? weight[c] * rstd[c] : 0;
    norm.shift[c] = real ? bias[c] - mean[c] * norm.scale[c] : 0;
  }
  return norm;
}

static INLINE size_t norm_floats(int channels) { return 3 * whole_lines(filled(channels)); }

// Gradient of a batch norm's input: scale * gradient + slope * (x - mean) + shift.
struct NormBackward {
  float *scale, *slope, *shift;  // (filled channels)
};

// From the sums over all tokens of the gradient and of gradient * (x - mean), (2, filled channels) for every part.
// Writes the gradients of weight and bias.
static inline NormBackward norm_backward_of(Pieces& pieces, int channels, const Norm& norm, const float* rstd,
                                            const double* sums, int parts, double tokens, float* weight_grad,
                                            float* bias_grad) {
  const int all = filled(channels);
  NormBackward back = {pieces.floats(all), pieces.floats(all), pieces.floats(all)};
  for (int c = 0; c < all; c++) {
    double plain = 0, scaled = 0;
    for (int p = 0; p < parts; p++) {
      plain += sums[(size_t)p * 2 * all + c];
      scaled += sums[((size_t)p * 2 + 1) * all + c];
    }
    const double scale = norm.scale[c], inverse = c < channels ? rstd[c] : 0;
    back.scale[c] = (float)scale;
    back.slope[c] = (float)(-scale * inverse * inverse * scaled / tokens);
    back.shift[c] = (float)(-scale * plain / tokens);
    if (c < channels) {
      bias_grad[c] = (float)plain;
      weight_grad[c] = (float)(scaled * inverse);
    }
  }
  return back;
}

static INLINE void add_lanes(double* total, vec v) {
  for (int i = 0; i < LANES; i++) total[i] += v[i];
}

// V vectors of channels: adds the sums over a band of gradient and of gradient * (x - mean).
template <int V>
static INLINE void add_gradient_vectors(const Number* grad, const Number* x, const float* mean, int tokens,
                                        int channels, double* sums) {
  vec plain[V] = {}, scaled[V] = {}, middle[V];
  for (int v = 0; v < V; v++) middle[v] = load(mean + v * LANES);
  for (int t = 0; t < tokens; t++, grad += channels, x += channels)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const vec g = load(grad + v * LANES);
      plain[v] += g;
      scaled[v] += g * (load(x + v * LANES) - middle[v]);
    }
  for (int v = 0; v < V; v++) {
    add_lanes(sums + v * LANES, plain[v]);
    add_lanes(sums + channels + v * LANES, scaled[v]);
  }
}

// The same for all channels, which fill whole vectors: what norm_backward_of reads of one part.
static __attribute__((noinline, unused)) void add_gradients(const Number* grad, const Number* x, const float* mean,
                                                            int tokens, int channels, double* sums) {
  int c = 0;
  for (; c + 4 * LANES <= channels; c += 4 * LANES)
    add_gradient_vectors<4>(grad + c, x + c, mean + c, tokens, channels, sums + c);
  for (; c < channels; c += LANES) add_gradient_vectors<1>(grad + c, x + c, mean + c, tokens, channels, sums + c);
}

struct Layer {
  const float *weight, *bias;  // (channels), or null: no layer norm
  float eps;
};

// Of every token of a block the sum of its lanes; overwrites them.
static INLINE vec sums_of(vec* tokens) {
  transpose(tokens);
#pragma GCC unroll 4
  for (int half = LANES / 2; half; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; i++) tokens[i] += tokens[i + half];
  return tokens[0];
}

// Normalised tokens without gain and shift, (count, stride) with zeros beyond the channels, and 1 / their standard
// deviations. At most LANES of them, whose sums are taken together. The rounding of the mean of numbers far from zero
// shows in the deviations, whose own mean is taken off as well. `row(t)` is where token t starts.
template <class RowOf>
static INLINE void normalise_tokens(RowOf row, int count, int channels, int stride, float eps, float* out,
                                    float* rstd) {
  vec sums[LANES] = {}, squares[LANES] = {};
  float means[LANES];
  for (int t = 0; t < count; t++)
    for (int c = 0; c < channels; c += LANES) sums[t] += load_part(row(t) + c, channels - c);
  store(means, sums_of(sums) / splat((float)channels));
  for (int t = 0; t < count; t++) {
    const vec mean = splat(means[t]);
    vec off = {}, square = {};
    for (int c = 0; c < channels; c += LANES) {
      vec d = load_part(row(t) + c, channels - c) - mean;
      if (channels - c < LANES) d = first_lanes(d, channels - c);
      store(out + (size_t)t * stride + c, d);
      off += d;
      square += d * d;
    }
    sums[t] = off;
    squares[t] = square;
  }
  for (int t = count; t < LANES; t++) sums[t] = squares[t] = (vec){};
  const vec rest = sums_of(sums) / splat((float)channels);
  const vec variance = sums_of(squares) / splat((float)channels) - rest * rest;
  const vec scale = splat(1) / root(larger(splat(0), variance) + splat(eps));
  store(means, rest);
  for (int t = 0; t < count; t++) rstd[t] = scale[t];
  for (int t = 0; t < count; t++) {
    float* y = out + (size_t)t * stride;
    const vec middle = splat(means[t]), factor = splat(rstd[t]);
    for (int c = 0; c < channels; c += LANES) store_part(y + c, (load(y + c) - middle) * factor, channels - c);
  }
}

// Tokens after the layer norm, (tokens, stride); also without gain and shift, and 1 / deviations, where asked for.
template <class RowOf>
static INLINE void layer_norm(const Layer& layer, RowOf row, int tokens, int channels, int stride, float* normed,
                              float* plain, float* rstd) {
  float scales[LANES];
  for (int first = 0; first < tokens; first += LANES) {
    const int count = tokens - first < LANES ? tokens - first : LANES;
    const size_t at = (size_t)first * stride;
    float* y = plain ? plain + at : normed + at;
    if (layer.weight)
      normalise_tokens([=](int t) { return row(first + t); }, count, channels, stride, layer.eps, y,
                       rstd ? rstd + first : scales);
    for (int t = 0; t < count; t++)
      for (int c = 0; c < channels; c += LANES) {
        const int part = channels - c;
        float* to = normed + at + (size_t)t * stride + c;
        if (layer.weight)
          store(to, load(y + (size_t)t * stride + c) * load_part(layer.weight + c, part) +
                        load_part(layer.bias + c, part));
        else
          store(to, load_part(row(first + t) + c, part));
      }
  }
}

// Gradient of the tokens before a layer norm; adds to the sums of weight and bias gradients, (2, filled channels).
// `out(t)` is where it goes, `past(t)` the gradient that goes past the norm, or null.
template <class OutOf, class PastOf>
static INLINE void layer_norm_backward(const Layer& layer, const float* grad, const float* plain, const float* rstd,
                                       int tokens, int channels, int stride, PastOf past, OutOf out, float* sums) {
  float *of_weight = sums, *of_bias = sums + filled(channels);
  float means[LANES], slopes[LANES];
  for (int first = 0; first < tokens; first += LANES) {
    const int count = tokens - first < LANES ? tokens - first : LANES;
    vec totals[LANES] = {}, alongs[LANES] = {};
    for (int t = 0; t < count; t++) {
      const size_t at = (size_t)(first + t) * stride;
      vec total = {}, along = {};
      for (int c = 0; c < channels; c += LANES) {
        const vec g = load(grad + at + c), x = load(plain + at + c);
        const vec scaled = g * load_part(layer.weight + c, channels - c);
        store(of_weight + c, load(of_weight + c) + g * x);
        store(of_bias + c, load(of_bias + c) + g);
        total += scaled;
        along += scaled * x;
      }
      totals[t] = total;
      alongs[t] = along;
    }
    store(means, sums_of(totals) / splat((float)channels));
    store(slopes, sums_of(alongs) / splat((float)channels));
    for (int t = 0; t < count; t++) {
      const size_t at = (size_t)(first + t) * stride;
      const vec mean = splat(means[t]), slope = splat(slopes[t]), scale = splat(rstd[first + t]);
      float* to = out(first + t);
      const float* other = past(first + t);
      for (int c = 0; c < channels; c += LANES) {
        const vec g = load(grad + at + c) * load_part(layer.weight + c, channels - c);
        const vec back = (g - mean - load(plain + at + c) * slope) * scale;
        store_part(to + c, other ? back + load_part(other + c, channels - c) : back, channels - c);
      }
    }
  }
}
