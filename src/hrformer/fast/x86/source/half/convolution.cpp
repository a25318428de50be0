// A full convolution with bias and activation in bfloat16: the cells under the kernel are written side by side, and are
// the rows of a product.

#include "../team.h"
#include "half_product.h"

struct Convolution {
  const half* x;  // (batch, height, width, depth)
  half* y;        // (batch, out_height, out_width, channels)
  int batch, height, width, depth;
  int out_height, out_width, channels;
  int kernel_height, kernel_width, stride_y, stride_x, padding_y, padding_x;
  const half* weight;  // packed, grouped kernel_height * kernel_width * depth deep, cells of the kernel before channels
  const float* bias;   // (grouped channels)
  int activation;
  int threads;
};

static const int BAND_TOKENS = 64;

static INLINE void copy(half* to, const half* from, int count) {
  if (count < GROUP) {
    memcpy(to, from, count * sizeof(half));
    return;
  }
  int c = 0;
  for (; c + GROUP <= count; c += GROUP) memcpy(to + c, from + c, GROUP * sizeof(half));
  if (c < count) memcpy(to + count - GROUP, from + count - GROUP, GROUP * sizeof(half));
}

// The cells under the kernel at one output.
static void gather(const Convolution& f, int picture, int row, int column, half* to) {
  const int top = row * f.stride_y - f.padding_y, left = column * f.stride_x - f.padding_x;
  const int begin = left < 0 ? -left : 0, beyond = left + f.kernel_width - f.width;
  const int end = f.kernel_width - (beyond > 0 ? beyond : 0);
  for (int i = 0; i < f.kernel_height; i++, to += f.kernel_width * f.depth) {
    const int at = top + i;
    if (at < 0 || at >= f.height || end <= begin) {
      memset(to, 0, f.kernel_width * f.depth * sizeof(half));
      continue;
    }
    const half* from = f.x + (((ptrdiff_t)picture * f.height + at) * f.width + left + begin) * f.depth;
    if (begin) memset(to, 0, begin * f.depth * sizeof(half));
    copy(to + begin * f.depth, from, (end - begin) * f.depth);
    if (end < f.kernel_width) memset(to + end * f.depth, 0, (f.kernel_width - end) * f.depth * sizeof(half));
  }
}

// Outputs begin to end, counted through all pictures.
static void work(const Convolution& f, int begin, int end) {
  const Ready ready;
  const int channels = f.channels, activation = f.activation, taken = f.kernel_height * f.kernel_width * f.depth;
  const int depth = grouped(taken), cells = f.out_height * f.out_width;
  half* rows = half_buffer(thread_buffer, (size_t)((end - begin + 15) / 16 * 16) * depth);
  for (int token = begin; token < end; token++) {
    half* to = rows + (size_t)(token - begin) * depth;
    gather(f, token / cells, token % cells / f.out_width, token % f.out_width, to);
    memset(to + taken, 0, (depth - taken) * sizeof(half));
  }
  half* y = f.y + (size_t)begin * channels;
  half_product(rows, depth, end - begin, f.weight, depth, channels, f.bias, [=](int r, int c, Pair(&v)[2], int n) {
    activate(v, activation);
    ROWS_OF_TWO(i, n) store_halves(y + (size_t)(r + i) * channels + c, v[i], channels - c);
  });
}

extern "C" void hrformer_convolution(const Convolution* settings) {
  const Convolution f = *settings;
  const int tokens = f.batch * f.out_height * f.out_width, share = (tokens + f.threads - 1) / f.threads;
  int band = BAND_TOKENS;
  if (band > share) band = (share + 15) / 16 * 16;
  const int bands = (tokens + band - 1) / band;
  for_parts(f.threads, bands, [&](int i) { work(f, i * band, (i + 1) * band < tokens ? (i + 1) * band : tokens); });
}
