// A 1x1 convolution with bias, residual and activations.

#include "activation.h"
#include "team.h"
#include "product.h"

struct Linear {
  const float* x;  // (rows, depth)
  float* y;        // (rows, channels)
  int rows, depth, channels;
  const float* weight;    // packed, depth deep
  const float* bias;      // (filled channels)
  const float* residual;  // as y, or null
  int activation;         // before the residual is added
  int after;              // after it
  int threads;
};

static void work(const Linear& f, int begin, int end) {
  const float *x = f.x + (size_t)begin * f.depth, *bias = f.bias, *residual = f.residual;
  const int channels = f.channels, depth = f.depth, activation = f.activation, after = f.after;
  if (residual) residual += (size_t)begin * channels;
  float* y = f.y + (size_t)begin * channels;
  product([=](int r) { return x + (size_t)r * depth; }, end - begin, f.weight, depth, vectors_of(channels),
          [=](int r, int c, vec v) {
            const size_t at = (size_t)r * channels + c;
            v = activated(v + load(bias + c), activation);
            if (residual) v += load_part(residual + at, channels - c);
            store_part(y + at, activated(v, after), channels - c);
          });
}

extern "C" void hrformer_linear(const Linear* settings) {
  const Linear f = *settings;
  const int chunk = 256, chunks = (f.rows + chunk - 1) / chunk;
  const int parts = chunks > f.threads ? chunks : f.threads;
  for_parts(f.threads, parts, [&](int part) {
    const int begin = (int)((long)f.rows * part / parts), end = (int)((long)f.rows * (part + 1) / parts);
    if (end > begin) work(f, begin, end);
  });
}

extern "C" int hrformer_lanes() { return LANES; }
