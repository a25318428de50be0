// A full convolution with bias and activation in bfloat16, as a product.
//
// With many channels the part of the map under a band of outputs is copied with its padding, apart by the place of a
// cell within a step of the kernel: neighbouring outputs then read neighbouring cells at every tap. With few channels
// the cells under the kernel are written side by side.

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

static const int BAND_TOKENS = 256;

// Channels from which a tap is worth its own groups.
static const int MANY = GROUP;

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
static void work_on_cells(const Convolution& f, int begin, int end) {
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
  const Left cells_of = whole_rows(rows, depth);
  half_product(cells_of, end - begin, f.weight, depth, channels, f.bias, [=](int r, int c, Pair(&v)[2], int n) {
    activate(v, activation);
    ROWS_OF_TWO(i, n) store_halves(y + (size_t)(r + i) * channels + c, v[i], channels - c);
  });
}

// How the copy of a band is laid out: planes of cells for every place within a step, each of `rows` rows of `width`
// cells.
struct Planes {
  int rows, width;
  size_t plane, apart;  // numbers in a plane; from a group of channels to the next
};

static Planes planes_for(const Convolution& f, int band) {
  const int rows = band + (f.kernel_height - 1) / f.stride_y, width = f.out_width + (f.kernel_width - 1) / f.stride_x;
  // Tiles read up to 32 cells beyond the last.
  const size_t plane = ((size_t)rows * width + BLOCK_ROWS + 16) * GROUP;
  return {rows, width, plane, plane * f.stride_y * f.stride_x};
}

// The map under `band` output rows from `first` on, rows of a picture.
static void copy_planes(const Convolution& f, const Planes& p, int picture, int first, int band, half* to) {
  const int rows = band + (f.kernel_height - 1) / f.stride_y;
  for (int y = 0; y < f.stride_y; y++)
    for (int x = 0; x < f.stride_x; x++)
      for (int r = 0; r < rows; r++) {
        half* line = to + (y * f.stride_x + x) * p.plane + (size_t)r * p.width * GROUP;
        const int row = (first + r) * f.stride_y + y - f.padding_y;
        const half* from = f.x + ((ptrdiff_t)picture * f.height + row) * f.width * f.depth;
        for (int c = 0; c < p.width; c++, line += GROUP) {
          const int cell = c * f.stride_x + x - f.padding_x;
          const bool inside = row >= 0 && row < f.height && cell >= 0 && cell < f.width;
          for (int d = 0; d < f.depth; d += GROUP)
            copy_group(line + d / GROUP * p.apart, from + (ptrdiff_t)cell * f.depth + d, inside ? f.depth - d : 0);
        }
      }
}

// Output rows begin to end of a picture.
static void work_on_planes(const Convolution& f, const Planes& p, int picture, int begin, int end) {
  const Ready ready;
  const int groups = grouped(f.depth) / GROUP, channels = f.channels, activation = f.activation;
  const int taps = f.kernel_height * f.kernel_width, cells = (end - begin) * p.width;
  half* copy = half_buffer(thread_buffer, groups * p.apart);
  copy_planes(f, p, picture, begin, end - begin, copy);
  ptrdiff_t places[taps * groups];
  for (int t = 0, k = 0; t < taps; t++)
    for (int g = 0; g < groups; g++) {
      const int y = t / f.kernel_width, x = t % f.kernel_width;
      const int plane = y % f.stride_y * f.stride_x + x % f.stride_x;
      places[k++] = g * p.apart + plane * p.plane + ((size_t)y / f.stride_y * p.width + x / f.stride_x) * GROUP;
    }
  half* y = f.y + ((size_t)picture * f.out_height + begin) * f.out_width * channels;
  const int width = p.width, out_width = f.out_width;
  half_product({copy, GROUP, 0, places}, cells, f.weight, taps * groups * GROUP, channels, f.bias,
               [=](int r, int c, Pair(&v)[2], int n) {
                 activate(v, activation);
                 const int row = r / width;
                 ROWS_OF_TWO(i, n) {
                   const bool next = r + i >= (row + 1) * width;
                   const int column = r + i - (row + next) * width;
                   if (column < out_width)
                     store_halves(y + ((size_t)(row + next) * out_width + column) * channels + c, v[i], channels - c);
                 }
               });
}

extern "C" void hrformer_convolution(const Convolution* settings) {
  const Convolution f = *settings;
  if (f.depth >= MANY) {
    const int share = (f.batch * f.out_height + f.threads - 1) / f.threads;
    int band = (BAND_TOKENS + f.out_width - 1) / f.out_width;
    if (band > share) band = share;
    if (band > f.out_height) band = f.out_height;
    const Planes planes = planes_for(f, band);
    const int bands = (f.out_height + band - 1) / band;
    return for_parts(f.threads, f.batch * bands, [&](int i) {
      const int begin = i % bands * band, end = begin + band < f.out_height ? begin + band : f.out_height;
      work_on_planes(f, planes, i / bands, begin, end);
    });
  }
  const int tokens = f.batch * f.out_height * f.out_width, share = (tokens + f.threads - 1) / f.threads;
  int band = BAND_TOKENS;
  if (band > share) band = (share + 15) / 16 * 16;
  const int bands = (tokens + band - 1) / band;
  for_parts(f.threads, bands, [&](int i) {
    work_on_cells(f, i * band, (i + 1) * band < tokens ? (i + 1) * band : tokens);
  });
}
