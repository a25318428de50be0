// Batch norm with the statistics of the batch, an addition and ReLU behind it: forward and backward pass.
//
// Maps are (tokens, channels) and read once for the sums and once to be applied.

#include "team.h"
#include "training_norms.h"

struct BatchNormTraining {
  const float* x;      // (tokens, channels)
  const float* added;  // the same, or null
  float* y;
  float* statistics;  // (2 * filled channels): mean and 1 / standard deviation
  int tokens, channels, relu;
  const float *weight, *bias;  // (channels)
  Running running;
  int threads;
};

struct BatchNormTrainingBackward {
  const float *grad, *x;
  const float* y;  // of the forward pass, or null where nothing was added
  float* grad_x;
  float* grad_added;  // or null
  float* statistics;
  int tokens, channels, relu;
  const float *weight, *bias;
  float *weight_grad, *bias_grad;
  int threads;
};

// Parts of at least a band each.
static int parts_of(int tokens, int threads) {
  const int bands = (tokens + BAND_TOKENS - 1) / BAND_TOKENS;
  return threads < bands ? threads : bands;
}

// Calls `work(first, count)` for the bands of a part.
template <class Work> static INLINE void for_bands(int tokens, int part, int parts, Work work) {
  const Share own = share(tokens, part, parts);
  for (int first = own.first; first < own.last; first += BAND_TOKENS)
    work(first, first + BAND_TOKENS < own.last ? BAND_TOKENS : own.last - first);
}

// Adds a band to the moments; `sums` holds three rows of channels. In the order of memory, which the first of its two
// passes reads from far away.
static void add_moments(Moments& m, const float* x, int tokens, int channels, float* sums) {
  const int all = filled(channels);
  float *mean = sums, *off = sums + all, *squares = sums + 2 * all;
  memset(sums, 0, 3 * all * sizeof(float));
  for (int t = 0; t < tokens; t++)
    for (int c = 0; c < channels; c += LANES) {
      const float* at = x + (size_t)t * channels + c;
      ask_ahead(at);
      store(mean + c, load(mean + c) + load_part(at, channels - c));
    }
  for (int c = 0; c < all; c += LANES) store(mean + c, load(mean + c) / splat((float)tokens));
  for (int t = 0; t < tokens; t++)
    for (int c = 0; c < channels; c += LANES) {
      const vec d = load_part(x + (size_t)t * channels + c, channels - c) - load(mean + c);
      store(off + c, load(off + c) + d);
      store(squares + c, load(squares + c) + d * d);
    }
  for (int c = 0; c < channels; c++) merge(m, c, mean[c] + (double)off[c] / tokens, squares[c], tokens);
  m.count += tokens;
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
  const int parts = parts_of(f.tokens, f.threads), all = filled(f.channels);
  Block block(parts * (moments_floats(f.channels) + whole_lines(3 * all)) + norm_floats(f.channels));
  Pieces pieces = {block.start};
  Moments moments[parts];
  float* sums[parts];
  for (int p = 0; p < parts; p++) {
    moments[p] = empty_moments(pieces, f.channels);
    sums[p] = pieces.floats(3 * all);
  }
  for_parts(f.threads, parts, [&](int part) {
    for_bands(f.tokens, part, parts, [&](int first, int tokens) {
      add_moments(moments[part], f.x + (size_t)first * f.channels, tokens, f.channels, sums[part]);
    });
  });
  finish_moments(moments, parts, f.channels, f.running, f.statistics, f.statistics + all);
  const Norm norm = norm_of(pieces, f.channels, f.statistics, f.statistics + all, f.weight, f.bias);
  for_parts(f.threads, parts, [&](int part) {
    for_bands(f.tokens, part, parts, [&](int first, int tokens) { apply(f, norm, first, tokens); });
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

// Sums over a band of the gradient and of gradient * (x - mean), see norm_backward_of.
static void add_gradients(const BatchNormTrainingBackward& f, const Norm& norm, int first, int tokens, float* sums,
                          double* total) {
  const int channels = f.channels, all = filled(channels);
  memset(sums, 0, 2 * all * sizeof(float));
  for (int t = first; t < first + tokens; t++)
    for (int c = 0; c < channels; c += LANES) {
      const size_t at = (size_t)t * channels + c;
      ask_ahead(f.x + at);
      ask_ahead(f.grad + at);
      const vec x = load_part(f.x + at, channels - c), grad = before_relu(f, norm, at, c, x);
      store(sums + c, load(sums + c) + grad);
      store(sums + all + c, load(sums + all + c) + grad * (x - load(norm.mean + c)));
    }
  for (int i = 0; i < 2 * all; i++) total[i] += sums[i];
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
  const int parts = parts_of(f.tokens, f.threads), all = filled(f.channels);
  Block block(whole_lines((size_t)parts * 4 * all) + parts * whole_lines(2 * all) + 2 * norm_floats(f.channels));
  Pieces pieces = {block.start};
  const float* rstd = f.statistics + all;
  const Norm norm = norm_of(pieces, f.channels, f.statistics, rstd, f.weight, f.bias);
  double* total = pieces.zero_doubles((size_t)parts * 2 * all);
  float* sums[parts];
  for (int p = 0; p < parts; p++) sums[p] = pieces.floats(2 * all);
  for_parts(f.threads, parts, [&](int part) {
    for_bands(f.tokens, part, parts, [&](int first, int tokens) {
      add_gradients(f, norm, first, tokens, sums[part], total + (size_t)part * 2 * all);
    });
  });
  const NormBackward back =
      norm_backward_of(pieces, f.channels, norm, rstd, total, parts, f.tokens, f.weight_grad, f.bias_grad);
  for_parts(f.threads, parts, [&](int part) {
    for_bands(f.tokens, part, parts, [&](int first, int tokens) { apply_back(f, norm, back, first, tokens); });
  });
}
