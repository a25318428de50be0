// Backward pass of a fusion unit's sum, see fusion.cpp: what passes ReLU goes to every term; one whose cells were
// repeated gets the sum over its copies.

#include "team.h"
#include "vectors.h"

struct FusionTrainingBackward {
  const float *grad, *y;  // (batch, height, width, channels)
  int batch, height, width, channels;
  float* terms[4];  // (batch, height / factor, width / factor, channels); null: not asked for
  int factors[4];
  int threads;
};

// A row of cells of a term, each the sum over factor * factor cells of the result.
static void sum_row(const FusionTrainingBackward& f, int term, int row) {
  const int factor = f.factors[term], channels = f.channels, width = f.width / factor;
  const size_t line = (size_t)f.width * channels, start = (size_t)row * factor * line;
  float* out = f.terms[term] + (size_t)row * width * channels;
  for (int cell = 0; cell < width; cell++, out += channels)
    for (int c = 0; c < channels; c += LANES) {
      const int part = channels - c;
      vec sum = {};
      for (int i = 0; i < factor; i++)
        for (int j = 0; j < factor; j++) {
          const size_t at = start + i * line + (size_t)(cell * factor + j) * channels + c;
          sum += load_part(f.y + at, part) <= splat(0) ? splat(0) : load_part(f.grad + at, part);
        }
      store_part(out + c, sum, part);
    }
}

extern "C" void hrformer_fusion_training_backward(const FusionTrainingBackward* settings) {
  const FusionTrainingBackward f = *settings;
  int largest = 1;
  for (int i = 0; i < 4; i++)
    if (f.terms[i] && f.factors[i] > largest) largest = f.factors[i];
  // Rows that share cells of the coarsest term are taken together, while they are in a core's cache.
  for_runs(f.threads, f.batch * f.height / largest, [&](int first, int last) {
    for (int block = first; block < last; block++)
      for (int i = 0; i < 4; i++) {
        if (!f.terms[i]) continue;
        const int rows = largest / f.factors[i];
        for (int row = block * rows; row < (block + 1) * rows; row++) sum_row(f, i, row);
      }
  });
}
