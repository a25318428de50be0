// A depthwise 3x3 convolution, stride 1 or 2 and padding 1, and the 1x1 convolution behind it, for inference: the map
// between them is never whole.

#include "activation.h"
#include "depthwise.h"
#include "product.h"
#include "shares.h"

struct Separable {
  const float* x;  // (batch, height, width, depth)
  float* y;        // (batch, ceil(height / stride), ceil(width / stride), channels)
  int batch, height, width, depth, channels, stride;
  const float* depthwise;  // (9, filled depth)
  const float* depthwise_bias;
  const float* weight;     // packed, depth deep
  const float* bias;       // (filled channels)
  const float* residual;   // as y, or null
  int middle, activation;  // between the two, and after the second before the residual is added
  int threads;
};

static const int BAND_TOKENS = 128;

static void mix_row(const Separable& f, int row, float* out) {
  const int height = (f.height + f.stride - 1) / f.stride;
  const int picture = row / height, centre = row % height * f.stride, middle = f.middle;
  const float* x = f.x + (size_t)picture * f.height * f.width * f.depth;
  const float* lines[3];
  for (int i = 0; i < 3; i++) {
    const int at = centre + i - 1;
    lines[i] = at >= 0 && at < f.height ? x + (size_t)at * f.width * f.depth : nullptr;
  }
  auto finish = [=](vec v) { return activated(v, middle); };
  if (f.stride == 1)
    depthwise_row<1>(lines, f.width, f.depth, 0, f.depth, filled(f.depth), f.depthwise, f.depthwise_bias, out, finish);
  else
    depthwise_row<2>(lines, f.width, f.depth, 0, f.depth, filled(f.depth), f.depthwise, f.depthwise_bias, out, finish);
}

// Output rows begin to end, counted through all pictures.
static void work(const Separable& f, int begin, int end) {
  const int width = (f.width + f.stride - 1) / f.stride, depth = filled(f.depth), channels = f.channels;
  float* mixed = thread_buffer((size_t)(end - begin) * width * depth);
  for (int row = begin; row < end; row++) mix_row(f, row, mixed + (size_t)(row - begin) * width * depth);
  const float* bias = f.bias;
  const float* residual = f.residual ? f.residual + (size_t)begin * width * channels : nullptr;
  float* y = f.y + (size_t)begin * width * channels;
  const int activation = f.activation;
  product([=](int r) { return mixed + (size_t)r * depth; }, (end - begin) * width, f.weight, f.depth,
          vectors_of(channels), [=](int r, int c, vec v) {
            const size_t at = (size_t)r * channels + c;
            v = activated(v + load(bias + c), activation);
            if (residual) v += load_part(residual + at, channels - c);
            store_part(y + at, v, channels - c);
          });
}

extern "C" void hrformer_separable(const Separable* settings) {
  const Separable f = *settings;
  const int width = (f.width + f.stride - 1) / f.stride, rows = f.batch * ((f.height + f.stride - 1) / f.stride);
  for_bands(f.threads, rows, width, BAND_TOKENS, [&](int begin, int end) { work(f, begin, end); });
}
