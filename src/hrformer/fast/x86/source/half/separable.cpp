// A depthwise 3x3 convolution, stride 1 or 2 and padding 1, and the 1x1 convolution behind it, in bfloat16: the map
// between them is never whole.

#include "../shares.h"
#include "depthwise.h"
#include "half_product.h"

struct Separable {
  const half* x;  // (batch, height, width, depth)
  half* y;        // (batch, ceil(height / stride), ceil(width / stride), channels)
  int batch, height, width, depth, channels, stride;
  const float* depthwise;  // (9, grouped depth)
  const float* depthwise_bias;
  const half* weight;      // packed, grouped depth deep, in the order of the convolution
  const float* bias;       // (grouped channels)
  const half* residual;    // as y, or null
  int middle, activation;  // between the two, and after the second before the residual is added
  int threads;
};

static const int BAND_TOKENS = 128;

template <int STRIDE> static void mix_row(const Separable& f, int row, half* out, size_t apart) {
  const int height = (f.height + STRIDE - 1) / STRIDE;
  const int picture = row / height, centre = row % height * STRIDE, middle = f.middle;
  const half* x = f.x + (size_t)picture * f.height * f.width * f.depth;
  for (int c = 0; c < f.depth; c += GROUP, out += apart) {
    Lines<3, half> lines = {{}, f.width, f.depth, f.depth - c};
    for (int i = 0; i < 3; i++) {
      const int at = centre + i - 1;
      lines.at[i] = at >= 0 && at < f.height ? x + (size_t)at * f.width * f.depth + c : nullptr;
    }
    half_depthwise_rows<1, STRIDE>(lines, {f.depthwise + c, f.depthwise_bias + c, grouped(f.depth)}, out, GROUP, 0,
                                   [=](Pair(&v)[2]) { activate(v, middle); });
  }
}

// Output rows begin to end, counted through all pictures.
static void work(const Separable& f, int begin, int end) {
  const Ready ready;
  const int width = (f.width + f.stride - 1) / f.stride, depth = grouped(f.depth), channels = f.channels;
  const int tokens = (end - begin) * width;
  const size_t apart = (size_t)(tokens + 15) / 16 * 16 * GROUP;
  half* mixed = half_buffer(thread_buffer, apart * depth / GROUP);
  for (int row = begin; row < end; row++) {
    half* out = mixed + (size_t)(row - begin) * width * GROUP;
    if (f.stride == 1)
      mix_row<1>(f, row, out, apart);
    else
      mix_row<2>(f, row, out, apart);
  }
  const half* residual = f.residual ? f.residual + (size_t)begin * width * channels : nullptr;
  half* y = f.y + (size_t)begin * width * channels;
  const int activation = f.activation;
  half_product({mixed, GROUP, apart}, tokens, f.weight, depth, channels, f.bias, [=](int r, int c, Pair(&v)[2], int n) {
    activate(v, activation);
    ROWS_OF_TWO(i, n) {
      const size_t at = (size_t)(r + i) * channels + c;
      if (residual) v[i] = v[i] + load_halves(residual + at, channels - c);
      store_halves(y + at, v[i], channels - c);
    }
  });
}

extern "C" void hrformer_separable(const Separable* settings) {
  const Separable f = *settings;
  const int width = (f.width + f.stride - 1) / f.stride, rows = f.batch * ((f.height + f.stride - 1) / f.stride);
  for_bands(f.threads, rows, width, BAND_TOKENS, [&](int begin, int end) { work(f, begin, end); });
}
