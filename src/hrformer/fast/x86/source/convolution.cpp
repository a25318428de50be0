// A full convolution with bias and ReLU, as a product whose taps are the cells under the kernel.

#include "activation.h"
#include "product.h"
#include "shares.h"

struct Convolution {
  const float* x;  // (batch, height, width, depth)
  float* y;        // (batch, out_height, out_width, channels)
  int batch, height, width, depth;
  int out_height, out_width, channels;
  int kernel_height, kernel_width, stride_y, stride_x, padding_y, padding_x;
  const float* weight;  // packed, kernel_height * kernel_width * depth deep, cells of the kernel before channels
  const float* bias;    // (filled channels)
  const float* zeros;   // (depth)
  int activation;
  int threads;
};

static const int BAND_TOKENS = 192;

// Output rows begin to end, counted through all pictures.
static void work(const Convolution& f, int begin, int end) {
  const int channels = f.channels, activation = f.activation;
  const float* bias = f.bias;
  float* y = f.y + (size_t)begin * f.out_width * channels;
  const Convolution* s = &f;
  auto cell = [=](int token, int tap) {
    const int row = begin + token / s->out_width, picture = row / s->out_height;
    const int v = row % s->out_height * s->stride_y - s->padding_y + tap / s->kernel_width;
    const int h = token % s->out_width * s->stride_x - s->padding_x + tap % s->kernel_width;
    if (v < 0 || v >= s->height || h < 0 || h >= s->width) return s->zeros;
    return s->x + (((size_t)picture * s->height + v) * s->width + h) * s->depth;
  };
  product_of_taps(cell, (end - begin) * f.out_width, f.kernel_height * f.kernel_width, f.weight, f.depth,
                  vectors_of(channels), [=](int r, int c, vec v) {
                    store_part(y + (size_t)r * channels + c, activated(v + load(bias + c), activation), channels - c);
                  });
}

extern "C" void hrformer_convolution(const Convolution* settings) {
  const Convolution f = *settings;
  for_bands(f.threads, f.batch * f.out_height, f.out_width, BAND_TOKENS,
            [&](int begin, int end) { work(f, begin, end); });
}
