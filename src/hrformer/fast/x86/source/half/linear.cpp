// A 1x1 convolution with bias, residual and activations in bfloat16, see ../linear.cpp.

#include "../team.h"
#include "half_product.h"

struct Linear {
  const half* x;  // (rows, depth)
  half* y;        // (rows, channels)
  int rows, depth, channels;
  const half* weight;    // packed, grouped depth deep
  const float* bias;     // (grouped channels)
  const half* residual;  // as y, or null
  int activation;        // before the residual is added
  int after;             // after it
  int threads;
};

// Rows as a product reads them: whole groups deep, a multiple of 16 of them.
static const half* readable(const half* x, int rows, int depth) {
  if (depth % GROUP == 0 && rows % 16 == 0) return x;
  const size_t stride = grouped(depth);
  half* copy = half_buffer(thread_buffer, (size_t)((rows + 15) / 16 * 16) * stride);
  for (int r = 0; r < rows; r++) {
    memcpy(copy + r * stride, x + (size_t)r * depth, depth * sizeof(half));
    memset(copy + r * stride + depth, 0, (stride - depth) * sizeof(half));
  }
  return copy;
}

static void work(const Linear& f, int begin, int end) {
  const Ready ready;
  const int channels = f.channels, activation = f.activation, after = f.after, depth = grouped(f.depth);
  const half* residual = f.residual ? f.residual + (size_t)begin * channels : nullptr;
  half* y = f.y + (size_t)begin * channels;
  const half* x = readable(f.x + (size_t)begin * f.depth, end - begin, f.depth);
  const Left rows = whole_rows(x, depth);
  half_product(rows, end - begin, f.weight, depth, channels, f.bias, [=](int r, int c, Pair(&v)[2], int n) {
    const int part = channels - c;
    activate(v, activation);
    if (residual)
      ROWS_OF_TWO(i, n) v[i] = v[i] + load_halves(residual + (size_t)(r + i) * channels + c, part);
    activate(v, after);
    ROWS_OF_TWO(i, n) store_halves(y + (size_t)(r + i) * channels + c, v[i], part);
  });
}

extern "C" void hrformer_linear(const Linear* settings) {
  const Linear f = *settings;
  const int chunk = 256, chunks = (f.rows + chunk - 1) / chunk;
  const int parts = chunks > f.threads ? chunks : f.threads, units = (f.rows + 15) / 16;
  for_parts(f.threads, parts, [&](int part) {
    const int begin = (int)((long)units * part / parts) * 16, last = (int)((long)units * (part + 1) / parts) * 16;
    const int end = last < f.rows ? last : f.rows;
    if (end > begin) work(f, begin, end);
  });
}

extern "C" int hrformer_lanes() { return LANES; }
