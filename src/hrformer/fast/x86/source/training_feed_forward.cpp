// Forward pass of the convolutional feed-forward network in training: layer norm, 1x1, BN, GELU, depthwise 3x3, BN,
// GELU, 1x1, BN, GELU, with the statistics of the batch.
//
// Four passes, as statistics need a whole map before it can be normalised: each takes the statistics of what it makes
// while that is in a core's cache, and applies the last one's on the way in.

#include "training_feed_forward.h"

struct FeedForwardTraining {
  const float* x;     // (rows, width, channels)
  float* y;           // as x
  Number* expanded;   // (rows, width, filled hidden), after the first product
  Number* mixed;      // the same, after the convolution
  float* reduced;     // as x, after the second product
  float* statistics;  // (4 * filled hidden + 2 * filled channels)
  Size size;
  Weights weights;
  Running running1, running2, running3;
  int residual;  // whether the input is added to the output
  int threads;
};

static void expand(const FeedForwardTraining& f, int parts, const Packed* fc1, const float* bias, Moments* moments) {
  const Size s = f.size;
  const size_t hidden = filled(s.hidden);
  for_parts(f.threads, parts, [&](int part) {
    float* normed = thread_buffer((size_t)s.band() * s.width * filled(s.channels) + LANES);
    const Ready ready;
    for_bands(s, part, parts, [&](int first, int last) {
      expand_rows(s, f.weights, f.x, fc1, bias, first, last, normed, f.expanded);
      add_band(moments[part], f.expanded + first * s.line(), (last - first) * s.width, hidden, s.hidden);
    });
  });
}

static void mix(const FeedForwardTraining& f, int parts, const Norm& norm, const float* taps, const float* bias,
                Moments* moments) {
  const Size s = f.size;
  const int hidden = filled(s.hidden);
  for_parts(f.threads, parts, [&](int part) {
    RowRing ring(s, thread_buffer(RowRing::floats(s)), share(s.rows, part, parts).first);
    for_bands(s, part, parts, [&](int first, int last) {
      for (int r = first; r < last; r++) {
        const float* lines[3];
        ring.around(
            r,
            [&](int row, float* to) {
              const size_t at = row * s.line();
              activate(norm, f.expanded + at, s.width, hidden, to, f.mixed + at);
            },
            lines);
        convolve_row(lines, taps, bias, s.width, hidden, f.mixed + r * s.line());
      }
      add_band(moments[part], f.mixed + first * s.line(), (last - first) * s.width, hidden, s.hidden);
    });
  });
}

static void reduce(const FeedForwardTraining& f, int parts, const Norm& norm, const Packed* fc2, const float* bias,
                   Moments* moments) {
  const Size s = f.size;
  const int hidden = filled(s.hidden), channels = s.channels;
  for_parts(f.threads, parts, [&](int part) {
    float* active = thread_buffer(s.band() * s.line());
    const Ready ready;
    for_bands(s, part, parts, [&](int first, int last) {
      const int tokens = (last - first) * s.width;
      activate(norm, f.mixed + first * s.line(), tokens, hidden, active, active);
      float* out = f.reduced + (size_t)first * s.width * channels;
      product([=](int r) { return active + (size_t)r * hidden; }, tokens, fc2, s.hidden, vectors_of(channels),
              [=](int r, int c, vec v) {
                store_part(out + (size_t)r * channels + c, v + load(bias + c), channels - c);
              });
      add_band(moments[part], out, tokens, channels, channels);
    });
  });
}

static void finish(const FeedForwardTraining& f, int parts, const Norm& norm) {
  const Size s = f.size;
  const int channels = s.channels;
  for_parts(f.threads, parts, [&](int part) {
    const Share tokens = share(s.tokens(), part, parts);
    for (int t = tokens.first; t < tokens.last; t++)
      for (int c = 0; c < channels; c += LANES) {
        const size_t at = (size_t)t * channels + c;
        const vec x = load_part(f.reduced + at, channels - c);
        const vec y = gelu(x * load(norm.scale + c) + load(norm.shift + c));
        store_part(f.y + at, f.residual ? y + load_part(f.x + at, channels - c) : y, channels - c);
      }
  });
}

extern "C" void hrformer_feed_forward_training(const FeedForwardTraining* settings) {
  const FeedForwardTraining f = *settings;
  const Size s = f.size;
  const Weights w = f.weights;
  const int parts = s.parts(f.threads);
  Block block(whole_lines(packed_floats(s.channels, s.hidden)) + whole_lines(packed_floats(s.hidden, s.channels)) +
              parts * (2 * moments_floats(s.hidden) + moments_floats(s.channels)) + 2 * norm_floats(s.hidden) +
              norm_floats(s.channels) + taps_floats(s.hidden) + 2 * whole_lines(filled(s.hidden)) +
              whole_lines(filled(s.channels)));
  Pieces pieces = {block.start};
  const Packed* fc1 = pack(pieces, w.fc1, s.channels, s.hidden, true, f.threads);
  const Packed* fc2 = pack(pieces, w.fc2, s.hidden, s.channels, true, f.threads);
  const float* taps = taps_of(pieces, w.depthwise, s.hidden);
  const float* fc1_bias = padded(pieces, w.fc1_bias, s.hidden);
  const float* depthwise_bias = padded(pieces, w.depthwise_bias, s.hidden);
  const float* fc2_bias = padded(pieces, w.fc2_bias, s.channels);
  Moments moments[3][parts];
  for (int p = 0; p < parts; p++)
    for (int i = 0; i < 3; i++) moments[i][p] = empty_moments(pieces, i < 2 ? s.hidden : s.channels);
  const Statistics st = statistics_in(f.statistics, s);
  expand(f, parts, fc1, fc1_bias, moments[0]);
  finish_moments(moments[0], parts, s.hidden, f.running1, st.mean1, st.rstd1);
  mix(f, parts, norm_of(pieces, s.hidden, st.mean1, st.rstd1, w.norm1, w.norm1_bias), taps, depthwise_bias, moments[1]);
  finish_moments(moments[1], parts, s.hidden, f.running2, st.mean2, st.rstd2);
  reduce(f, parts, norm_of(pieces, s.hidden, st.mean2, st.rstd2, w.norm2, w.norm2_bias), fc2, fc2_bias, moments[2]);
  finish_moments(moments[2], parts, s.channels, f.running3, st.mean3, st.rstd3);
  finish(f, parts, norm_of(pieces, s.channels, st.mean3, st.rstd3, w.norm3, w.norm3_bias));
}
