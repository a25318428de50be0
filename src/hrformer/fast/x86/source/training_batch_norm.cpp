// Batch norm with the statistics of the batch, an addition and ReLU behind it: forward and backward pass.
//
// Maps are (tokens, channels) and read once for the sums and once to be applied.

#include "team.h"
#include "training_norms.h"

struct BatchNormTraining {
  const Number* x;      // (tokens, channels)
  const Number* added;  // the same, or null
  Number* y;
  float* statistics;  // (2 * filled channels): mean and 1 / standard deviation
  int tokens, channels, relu;
  const float *weight, *bias;  // (channels)
  Running running;
  int threads;
};

struct BatchNormTrainingBackward {
  const Number *grad, *x;
  const Number* y;  // of the forward pass, or null where nothing was added
  Number* grad_x;
  Number* grad_added;  // or null
  float* statistics;
  int tokens, channels, relu;
  const float *weight, *bias;
  float *weight_grad, *bias_grad;
  int threads;
};

// Tokens of a band: what fits the cache of a core beside its gradients.
static int band_of(int channels) {
  const int tokens = 16384 / channels;
  return tokens < 64 ? 64 : tokens > 256 ? 256 : tokens;
}

// Parts of at least a band each.
static int parts_of(int tokens, int channels, int threads) {
  const int bands = (tokens + band_of(channels) - 1) / band_of(channels);
  return threads < bands ? threads : bands;
}

// Calls `work(first, count)` for the bands of a part.
template <class Work> static INLINE void for_bands(int tokens, int channels, int part, int parts, Work work) {
  const Share own = share(tokens, part, parts);
  const int band = band_of(channels);
  for (int first = own.first; first < own.last; first += band)
    work(first, first + band < own.last ? band : own.last - first);
}

static void apply(const BatchNormTraining& f, const Norm& norm, int first, int tokens) {
  const int channels = f.channels;
  for (int t = first; t < first + tokens; t++)
    for (int c = 0; c < channels; c += LANES) {
      const size_t at = (size_t)t * channels + c;
      const int part = channels - c;
      ask_ahead(f.x + at);
      vec y = load_part(f.x + at, part) * load(norm.scale + c) + load(norm.shift + c);
      if (f.added) y += load_part(f.added + at, part);
      store_part(f.y + at, f.relu ? relu(y) : y, part);
    }
}

extern "C" void hrformer_batch_norm_training(const BatchNormTraining* settings) {
  const BatchNormTraining f = *settings;
  const int parts = parts_of(f.tokens, f.channels, f.threads), all = filled(f.channels);
  Block block(parts * moments_floats(f.channels) + norm_floats(f.channels));
  Pieces pieces = {block.start};
  Moments moments[parts];
  for (int p = 0; p < parts; p++) moments[p] = empty_moments(pieces, f.channels);
  for_parts(f.threads, parts, [&](int part) {
    for_bands(f.tokens, f.channels, part, parts, [&](int first, int tokens) {
      add_band(moments[part], f.x + (size_t)first * f.channels, tokens, f.channels, f.channels);
    });
  });
  finish_moments(moments, parts, f.channels, f.running, f.statistics, f.statistics + all);
  const Norm norm = norm_of(pieces, f.channels, f.statistics, f.statistics + all, f.weight, f.bias);
  for_parts(f.threads, parts, [&](int part) {
    for_bands(f.tokens, f.channels, part, parts, [&](int first, int tokens) { apply(f, norm, first, tokens); });
  });
}

// Gradient before ReLU of a vector at `at`; that of NaN passes, as in PyTorch.
static INLINE vec before_relu(const BatchNormTrainingBackward& f, const Norm& norm, size_t at, int c, vec x) {
  const int part = f.channels - c;
  const vec grad = load_part(f.grad + at, part);
  if (!f.relu) return grad;
  const vec y = f.y ? load_part(f.y + at, part) : x * load(norm.scale + c) + load(norm.shift + c);
  return y <= splat(0) ? splat(0) : grad;
}

// Sums over a band of the gradient and of gradient * (x - mean), see norm_backward_of: V vectors of channels from `c`.
template <int V>
static INLINE void add_gradients(const BatchNormTrainingBackward& f, const Norm& norm, int first, int tokens, int c,
                                 double* total) {
  const int channels = f.channels, all = filled(channels);
  vec plain[V] = {}, scaled[V] = {};
  for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const int from = c + v * LANES;
      const size_t at = (size_t)(first + t) * channels + from;
      ask(f.x + at + SOON * channels);
      ask(f.grad + at + SOON * channels);
      const vec x = load_part(f.x + at, channels - from), grad = before_relu(f, norm, at, from, x);
      plain[v] += grad;
      scaled[v] += grad * (x - load(norm.mean + from));
    }
  for (int v = 0; v < V; v++) {
    add_lanes(total + c + v * LANES, plain[v]);
    add_lanes(total + all + c + v * LANES, scaled[v]);
  }
}

static void apply_back(const BatchNormTrainingBackward& f, const Norm& norm, const NormBackward& back, int first,
                       int tokens) {
  const int channels = f.channels;
  for (int t = first; t < first + tokens; t++)
    for (int c = 0; c < channels; c += LANES) {
      const size_t at = (size_t)t * channels + c;
      const int part = channels - c;
      ask_ahead(f.x + at);
      ask_ahead(f.grad + at);
      const vec x = load_part(f.x + at, part), grad = before_relu(f, norm, at, c, x), off = x - load(norm.mean + c);
      if (f.grad_added) store_part(f.grad_added + at, grad, part);
      store_part(f.grad_x + at, grad * load(back.scale + c) + (off * load(back.slope + c) + load(back.shift + c)),
                 part);
    }
}

extern "C" void hrformer_batch_norm_training_backward(const BatchNormTrainingBackward* settings) {
  const BatchNormTrainingBackward f = *settings;
  const int parts = parts_of(f.tokens, f.channels, f.threads), all = filled(f.channels);
  Block block(whole_lines((size_t)parts * 4 * all) + 2 * norm_floats(f.channels));
  Pieces pieces = {block.start};
  const float* rstd = f.statistics + all;
  const Norm norm = norm_of(pieces, f.channels, f.statistics, rstd, f.weight, f.bias);
  double* total = pieces.zero_doubles((size_t)parts * 2 * all);
  for_parts(f.threads, parts, [&](int part) {
    for_bands(f.tokens, f.channels, part, parts, [&](int first, int tokens) {
      double* own = total + (size_t)part * 2 * all;
      int c = 0;
      for (; c + 2 * LANES <= all; c += 2 * LANES) add_gradients<2>(f, norm, first, tokens, c, own);
      if (c < all) add_gradients<1>(f, norm, first, tokens, c, own);
    });
  });
  const NormBackward back =
      norm_backward_of(pieces, f.channels, norm, rstd, total, parts, f.tokens, f.weight_grad, f.bias_grad);
  for_parts(f.threads, parts, [&](int part) {
    for_bands(f.tokens, f.channels, part, parts,
              [&](int first, int tokens) { apply_back(f, norm, back, first, tokens); });
  });
}
