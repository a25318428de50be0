// Backward pass of the convolutional feed-forward network, see training_feed_forward.cpp.
//
// The forward pass keeps the input, the map after the second product and the statistics; hidden maps that it does not
// keep are computed again. A batch norm's gradient needs two sums over the whole map before it can be applied, so that the work falls
// into four passes: the third norm's sums; back through the second product to the second norm's sums; back through
// the convolution to the first norm's sums; back through the first product and the layer norm.
//
// The gradients of the three biases before a batch norm are zero and not computed.

#include "training_feed_forward.h"

struct FeedForwardTrainingBackward {
  const float* grad;  // (rows, width, channels), of the output
  const float* x;
  const float* reduced;
  Number* expanded;  // (rows, width, filled hidden); as the forward pass left it, or computed here
  Number* mixed;     // the same, after the convolution
  Number* back2;     // the same: gradients after the second norm, and after the first
  Number* back1;
  float* statistics;  // of the forward pass
  Size size;
  int expanded_given, mixed_given;
  Weights weights;
  float* grad_x;  // as x
  float *layer_weight_grad, *layer_bias_grad;
  float* fc1_grad;  // (hidden, channels), or null: not asked for
  float *norm1_grad, *norm1_bias_grad;
  float* depthwise_grad;  // (hidden, 9)
  float *norm2_grad, *norm2_bias_grad;
  float* fc2_grad;  // (channels, hidden), or null
  float *norm3_grad, *norm3_bias_grad;
  int residual;
  int threads;
};

using Backward = FeedForwardTrainingBackward;

// What the passes share.
struct Plan {
  int parts;
  const Packed *fc1, *fc2_back, *fc1_back;
  const float *fc1_bias, *taps, *depthwise_bias;
  Norm norm1, norm2, norm3;
  double *sums1, *sums2, *sums3;  // (parts, 2, filled hidden or channels), see norm_backward_of
  double *tap_sums;               // (parts, 9, filled hidden)
  double *layer_sums;             // (parts, 2, filled channels)
  float *fc1_sums, *fc2_sums;     // (parts, grad_rows(channels), filled hidden)
};

static void expand_again(const Backward& f, const Plan& p) {
  const Size s = f.size;
  for_parts(f.threads, p.parts, [&](int part) {
    float* normed = thread_buffer((size_t)s.band() * s.width * filled(s.channels) + LANES);
    const Ready ready;
    for_bands(s, part, p.parts, [&](int first, int last) {
      expand_rows(s, f.weights, f.x, p.fc1, p.fc1_bias, first, last, normed, f.expanded);
    });
  });
}

// Gradient behind a norm's GELU, and how far the norm's input lies from the mean: a vector of channels.
static INLINE void behind_gelu(const Norm& norm, int c, vec grad, vec x, vec* behind, vec* off) {
  *behind = grad * gelu_slope(x * load(norm.scale + c) + load(norm.shift + c));
  *off = x - load(norm.mean + c);
}

static void sum_norm3(const Backward& f, const Plan& p) {
  const Size s = f.size;
  const int channels = s.channels, all = filled(channels);
  for_parts(f.threads, p.parts, [&](int part) {
    for_bands(s, part, p.parts, [&](int first, int last) {
      const size_t start = (size_t)first * s.width * channels;
      for (int c = 0; c < channels; c += LANES) {
        vec plain = {}, scaled = {};
        for (int t = 0; t < (last - first) * s.width; t++) {
          const size_t at = start + (size_t)t * channels + c;
          vec behind, off;
          behind_gelu(p.norm3, c, load_part(f.grad + at, channels - c), load_part(f.reduced + at, channels - c),
                      &behind, &off);
          plain += behind;
          scaled += behind * off;
        }
        add_lanes(p.sums3 + (size_t)part * 2 * all + c, plain);
        add_lanes(p.sums3 + ((size_t)part * 2 + 1) * all + c, scaled);
      }
    });
  });
}

// Gradient of the second product's output for a band of tokens.
static void back_norm3(const Backward& f, const Plan& p, const NormBackward& back, int first, int tokens, float* out,
                       int stride) {
  const int channels = f.size.channels;
  const size_t start = (size_t)first * f.size.width * channels;
  for (int t = 0; t < tokens; t++)
    for (int c = 0; c < channels; c += LANES) {
      const size_t at = start + (size_t)t * channels + c;
      vec behind, off;
      behind_gelu(p.norm3, c, load_part(f.grad + at, channels - c), load_part(f.reduced + at, channels - c), &behind,
                  &off);
      store(out + (size_t)t * stride + c,
            behind * load(back.scale + c) + (off * load(back.slope + c) + load(back.shift + c)));
    }
}

// A band's hidden map after the second norm and GELU, and the gradient before GELU with its sums.
static void back_gelu2(const Backward& f, const Plan& p, int part, int first, int tokens, const float* grad,
                       int stride, float* active) {
  const int hidden = filled(f.size.hidden);
  const Number* mixed = f.mixed + first * f.size.line();
  Number* out = f.back2 + first * f.size.line();
  const float *scale = p.norm2.scale, *shift = p.norm2.shift;
  for (int t = 0; t < tokens; t++) {
    const size_t at = (size_t)t * hidden, wide = (size_t)t * stride;
    for (int c = 0; c < hidden; c += LANES) {
      ask_ahead(mixed + at + c);
      ask_ahead(out + at + c);
      const Activated a = gelu_and_slope(load(mixed + at + c) * load(scale + c) + load(shift + c));
      store(active + wide + c, a.value);
      store(out + at + c, load(grad + wide + c) * a.slope);
    }
  }
  add_gradients(out, mixed, p.norm2.mean, tokens, hidden, p.sums2 + (size_t)part * 2 * hidden);
}

// Computes the convolution's output again, unless it is given; then the gradient behind the second norm, and that of
// the second product's weights.
static void back_second_product(const Backward& f, const Plan& p, const NormBackward& back3) {
  const Size s = f.size;
  const int hidden = filled(s.hidden), stride = band_stride(s.hidden), narrow = filled(s.channels);
  const size_t band = (size_t)s.band() * s.width, weights = (size_t)grad_rows(s.channels) * hidden;
  for_parts(f.threads, p.parts, [&](int part) {
    Pieces pieces = {thread_buffer(RowRing::floats(s) + band * narrow + 2 * band * stride + 4 * whole_lines(LANES))};
    RowRing ring(s, pieces.floats(RowRing::floats(s)), share(s.rows, part, p.parts).first);
    float *grad = pieces.floats(band * narrow + LANES), *wide = pieces.floats(band * stride);
    float* active = pieces.floats(band * stride);
    const Ready ready;
    for_bands(s, part, p.parts, [&](int first, int last) {
      for (int r = first; r < last && !f.mixed_given; r++) {
        const float* lines[3];
        ring.around(
            r,
            [&](int row, float* to) {
              const size_t at = row * s.line();
              activate(p.norm1, f.expanded + at, s.width, hidden, to, f.mixed + at);
            },
            lines);
        convolve_row(lines, p.taps, p.depthwise_bias, s.width, hidden, f.mixed + r * s.line());
      }
      const int tokens = (last - first) * s.width;
      back_norm3(f, p, back3, first, tokens, grad, narrow);
      product([=](int r) { return grad + (size_t)r * narrow; }, tokens, p.fc2_back, s.channels, vectors_of(s.hidden),
              [=](int r, int c, vec v) { store(wide + (size_t)r * stride + c, v); });
      back_gelu2(f, p, part, first, tokens, wide, stride, active);
      if (f.fc2_grad)
        add_products(grad, narrow, s.channels, active, stride, s.hidden, tokens, p.fc2_sums + part * weights);
    });
  });
}

// One row back through the convolution: the gradient after the first GELU, times its slope, and the sums of the taps'
// gradients, (9, filled hidden).
static void back_taps(const float* const* rows, const float* taps, const float* active, const float* slope, int width,
                      int hidden, float* sums, Number* out) {
  for_cells(rows, width, hidden, [=](int column, int count, int c, const vec (*inputs)[CELLS + 2]) INLINED {
    vec grads[CELLS] = {}, values[CELLS];
#pragma GCC unroll 4
    for (int j = 0; j < CELLS; j++)
      values[j] = j < count ? load(active + (size_t)(column + j) * hidden + c) : (vec){};
    // A cell took part in its neighbour above with the taps of the row below, and so on: the taps are turned round.
#pragma GCC unroll 9
    for (int i = 0; i < 9; i++) {
      const vec tap = load(taps + (size_t)(8 - i) * hidden + c);
      vec total = load(sums + (size_t)(8 - i) * hidden + c);
#pragma GCC unroll 4
      for (int j = 0; j < CELLS; j++) {
        grads[j] += inputs[i / 3][j + i % 3] * tap;
        total += inputs[i / 3][j + i % 3] * values[j];
      }
      store(sums + (size_t)(8 - i) * hidden + c, total);
    }
#pragma GCC unroll 4
    for (int j = 0; j < CELLS; j++) {
      const size_t at = (size_t)(column + j) * hidden + c;
      if (j < count) store(out + at, grads[j] * load(slope + at));
    }
  });
}

// One row back through the convolution and the first GELU, with the sums of `back_taps`; `space` holds two rows.
static void back_row(const Backward& f, const Plan& p, int row, const float* const* rows, float* space, float* sums) {
  const int hidden = filled(f.size.hidden), width = f.size.width;
  const Number* expanded = f.expanded + row * f.size.line();
  const float *scale = p.norm1.scale, *shift = p.norm1.shift;
  Number* out = f.back1 + row * f.size.line();
  float *active = space, *slope = space + f.size.line();
  for (int t = 0; t < width; t++) {
    const size_t at = (size_t)t * hidden;
    for (int c = 0; c < hidden; c += LANES) {
      ask_ahead(expanded + at + c);
      ask(out + at + c);
      const Activated a = gelu_and_slope(load(expanded + at + c) * load(scale + c) + load(shift + c));
      store(active + at + c, a.value);
      store(slope + at + c, a.slope);
    }
  }
  back_taps(rows, p.taps, active, slope, width, hidden, sums, out);
}

// Gradient of a map before a batch norm: `count` tokens, `stride` floats apart in `out`, in the order of memory.
static inline void back_norm(const NormBackward& back, const Norm& norm, const Number* grad, const Number* x, int count,
                             int channels, int stride, float* out) {
  for (int t = 0; t < count; t++, grad += channels, x += channels, out += stride)
    for (int c = 0; c < channels; c += LANES) {
      ask_ahead(x + c);
      ask_ahead(grad + c);
      const vec off = load(x + c) - load(norm.mean + c);
      store(out + c, load(grad + c) * load(back.scale + c) + (off * load(back.slope + c) + load(back.shift + c)));
    }
}

static void back_convolution(const Backward& f, const Plan& p, const NormBackward& back2) {
  const Size s = f.size;
  const int hidden = filled(s.hidden);
  for_parts(f.threads, p.parts, [&](int part) {
    Pieces pieces = {thread_buffer(RowRing::floats(s) + 2 * s.line() + 9 * hidden + 3 * whole_lines(LANES))};
    RowRing ring(s, pieces.floats(RowRing::floats(s)), share(s.rows, part, p.parts).first);
    float *space = pieces.floats(2 * s.line()), *sums = pieces.floats(9 * hidden);
    for_bands(s, part, p.parts, [&](int first, int last) {
      memset(sums, 0, 9 * hidden * sizeof(float));
      for (int r = first; r < last; r++) {
        const float* lines[3];
        ring.around(
            r,
            [&](int row, float* to) {
              const size_t at = row * s.line();
              back_norm(back2, p.norm2, f.back2 + at, f.mixed + at, s.width, hidden, hidden, to);
            },
            lines);
        back_row(f, p, r, lines, space, sums);
      }
      for (int i = 0; i < 9 * hidden; i++) p.tap_sums[(size_t)part * 9 * hidden + i] += sums[i];
      const size_t at = first * s.line();
      add_gradients(f.back1 + at, f.expanded + at, p.norm1.mean, (last - first) * s.width, hidden,
                    p.sums1 + (size_t)part * 2 * hidden);
    });
  });
}

static void back_first_product(const Backward& f, const Plan& p, const NormBackward& back1) {
  const Size s = f.size;
  const int hidden = filled(s.hidden), stride = band_stride(s.hidden), narrow = filled(s.channels);
  const int channels = s.channels;
  const size_t band = (size_t)s.band() * s.width, weights = (size_t)grad_rows(channels) * hidden;
  const Layer layer = layer_of(s, f.weights);
  for_parts(f.threads, p.parts, [&](int part) {
    Pieces pieces = {thread_buffer(band * (stride + 3 * narrow + 1) + 2 * narrow + 7 * whole_lines(LANES))};
    float *grad = pieces.floats(band * stride), *normed = pieces.floats(band * narrow + LANES);
    float *plain = pieces.floats(band * narrow), *back = pieces.floats(band * narrow);
    float *rstd = pieces.floats(band), *sums = pieces.floats(2 * narrow);
    const Ready ready;
    for_bands(s, part, p.parts, [&](int first, int last) {
      const int tokens = (last - first) * s.width;
      const size_t start = (size_t)first * s.width * channels;
      const size_t at = first * s.line();
      back_norm(back1, p.norm1, f.back1 + at, f.expanded + at, tokens, hidden, stride, grad);
      const float* x = f.x + start;
      layer_norm(layer, [=](int t) { return x + (size_t)t * channels; }, tokens, channels, narrow, normed, plain, rstd);
      if (f.fc1_grad)
        add_products(normed, narrow, channels, grad, stride, s.hidden, tokens, p.fc1_sums + part * weights);
      float* out = f.grad_x + start;
      const float* past = f.residual ? f.grad + start : nullptr;
      if (!layer.weight) {
        product([=](int r) { return grad + (size_t)r * stride; }, tokens, p.fc1_back, s.hidden, vectors_of(channels),
                [=](int r, int c, vec v) {
                  const size_t to = (size_t)r * channels + c;
                  store_part(out + to, past ? v + load_part(past + to, channels - c) : v, channels - c);
                });
        return;
      }
      product([=](int r) { return grad + (size_t)r * stride; }, tokens, p.fc1_back, s.hidden, vectors_of(channels),
              [=](int r, int c, vec v) { store(back + (size_t)r * narrow + c, v); });
      memset(sums, 0, 2 * narrow * sizeof(float));
      layer_norm_backward(
          layer, back, plain, rstd, tokens, channels, narrow,
          [=](int t) { return past ? past + (size_t)t * channels : nullptr; },
          [=](int t) { return out + (size_t)t * channels; }, sums);
      for (int i = 0; i < 2 * narrow; i++) p.layer_sums[(size_t)part * 2 * narrow + i] += sums[i];
    });
  });
}

// Weights, norms and zeroed sums in one block.
static Plan make_plan(const Backward& f, Pieces& pieces) {
  const Size s = f.size;
  const Weights w = f.weights;
  const Statistics st = statistics_in(f.statistics, s);
  const int hidden = filled(s.hidden), channels = filled(s.channels);
  Plan p = {};
  p.parts = s.parts(f.threads);
  if (!f.expanded_given) p.fc1 = pack(pieces, w.fc1, s.channels, s.hidden, true, f.threads);
  p.fc1_back = pack(pieces, w.fc1, s.hidden, s.channels, false, f.threads);
  p.fc2_back = pack(pieces, w.fc2, s.channels, s.hidden, false, f.threads);
  p.fc1_bias = padded(pieces, w.fc1_bias, s.hidden);
  p.depthwise_bias = padded(pieces, w.depthwise_bias, s.hidden);
  p.taps = taps_of(pieces, w.depthwise, s.hidden);
  p.norm1 = norm_of(pieces, s.hidden, st.mean1, st.rstd1, w.norm1, w.norm1_bias);
  p.norm2 = norm_of(pieces, s.hidden, st.mean2, st.rstd2, w.norm2, w.norm2_bias);
  p.norm3 = norm_of(pieces, s.channels, st.mean3, st.rstd3, w.norm3, w.norm3_bias);
  p.sums1 = pieces.zero_doubles((size_t)p.parts * 2 * hidden);
  p.sums2 = pieces.zero_doubles((size_t)p.parts * 2 * hidden);
  p.sums3 = pieces.zero_doubles((size_t)p.parts * 2 * channels);
  p.tap_sums = pieces.zero_doubles((size_t)p.parts * 9 * hidden);
  p.layer_sums = pieces.zero_doubles((size_t)p.parts * 2 * channels);
  if (f.fc1_grad) p.fc1_sums = pieces.zeros((size_t)p.parts * grad_rows(s.channels) * hidden);
  if (f.fc2_grad) p.fc2_sums = pieces.zeros((size_t)p.parts * grad_rows(s.channels) * hidden);
  return p;
}

static size_t plan_floats(const Backward& f) {
  const Size s = f.size;
  const size_t hidden = filled(s.hidden), channels = filled(s.channels), parts = s.parts(f.threads);
  const size_t products = 3 * hidden * channels, norms = 9 * (hidden + hidden + channels) + 9 * hidden + 2 * hidden;
  const size_t sums = parts * (2 * (13 * hidden + 4 * channels) + 2 * hidden * grad_rows(channels));
  return products + norms + sums + 64 * whole_lines(1);
}

static void write_small_grads(const Backward& f, const Plan& p) {
  const Size s = f.size;
  const int hidden = filled(s.hidden), channels = filled(s.channels);
  for (int c = 0; c < s.hidden; c++)
    for (int i = 0; i < 9; i++) {
      double total = 0;
      for (int part = 0; part < p.parts; part++) total += p.tap_sums[((size_t)part * 9 + i) * hidden + c];
      f.depthwise_grad[(size_t)c * 9 + i] = (float)total;
    }
  for (int c = 0; c < s.channels && f.weights.layer_weight; c++) {
    double weight = 0, bias = 0;
    for (int part = 0; part < p.parts; part++) {
      weight += p.layer_sums[(size_t)part * 2 * channels + c];
      bias += p.layer_sums[((size_t)part * 2 + 1) * channels + c];
    }
    f.layer_weight_grad[c] = (float)weight;
    f.layer_bias_grad[c] = (float)bias;
  }
}

extern "C" void hrformer_feed_forward_training_backward(const FeedForwardTrainingBackward* settings) {
  const FeedForwardTrainingBackward f = *settings;
  const Size s = f.size;
  const Statistics st = statistics_in(f.statistics, s);
  const double tokens = s.tokens();
  Block block(plan_floats(f));
  Pieces pieces = {block.start};
  const Plan p = make_plan(f, pieces);
  if (!f.expanded_given) expand_again(f, p);
  sum_norm3(f, p);
  const NormBackward back3 = norm_backward_of(pieces, s.channels, p.norm3, st.rstd3, p.sums3, p.parts, tokens,
                                              f.norm3_grad, f.norm3_bias_grad);
  back_second_product(f, p, back3);
  const NormBackward back2 =
      norm_backward_of(pieces, s.hidden, p.norm2, st.rstd2, p.sums2, p.parts, tokens, f.norm2_grad, f.norm2_bias_grad);
  back_convolution(f, p, back2);
  const NormBackward back1 =
      norm_backward_of(pieces, s.hidden, p.norm1, st.rstd1, p.sums1, p.parts, tokens, f.norm1_grad, f.norm1_bias_grad);
  back_first_product(f, p, back1);
  if (f.fc1_grad) sum_parts_transposed(p.fc1_sums, p.parts, s.channels, s.hidden, f.fc1_grad, f.threads);
  if (f.fc2_grad) sum_parts(p.fc2_sums, p.parts, s.channels, s.hidden, f.fc2_grad, f.threads);
  write_small_grads(f, p);
}
