// The sum of a fusion unit and its ReLU: terms of the result's size, and smaller ones resized on the way.
//
// Included once the build's numbers are known: `number` is one of them in memory, `Values` what `load_values` makes of
// the next WIDTH of them, `Mode` how the calling thread treats small numbers for as long as one lives.

#pragma once

#include "team.h"

struct Fusion {
  number* y;  // (batch, height, width, channels)
  int batch, height, width, channels;
  const number* terms[4];  // (batch, heights[i], widths[i], channels); null behind the last
  int heights[4], widths[4];
  int factors[4];  // result's size over the term's
  int bilinear;    // 0: nearest; 1: bilinear, corners not aligned
  int threads;
};

// Where an output cell lies between two cells of a smaller map (PyTorch's rule for align_corners=False); both are the
// cell itself where nothing is blended.
struct Between {
  int first, second;
  float second_share;
};

static Between between(int at, int factor, int size, bool blended) {
  if (!blended) return {at / factor, at / factor, 0};
  float place = (at + 0.5f) / factor - 0.5f;
  if (place < 0) place = 0;
  int first = (int)place;
  if (first > size - 1) first = size - 1;
  return {first, first + (first < size - 1), place - first};
}

// A term at one output row: the two rows of its map that the row lies between.
struct Term {
  const number *upper, *lower;
  float low;
  bool blended;
};

// One cell of a term: four corners, offsets in numbers, and how much of them counts.
struct Corners {
  ptrdiff_t first, second;
  float share;
};

static INLINE Values blend(const Term& t, const Corners& h, int c, int part) {
  const Values top = load_values(t.upper + h.first + c, part);
  if (!t.blended) return top;
  const vec right = splat(h.share), left = splat(1 - h.share), low = splat(t.low), high = splat(1 - t.low);
  return high * (left * top + right * load_values(t.upper + h.second + c, part)) +
         low * (left * load_values(t.lower + h.first + c, part) + right * load_values(t.lower + h.second + c, part));
}

static void fuse_row(const Fusion& f, int count, int row, const Corners* corners) {
  const int picture = row / f.height, channels = f.channels;
  Term terms[4];
  for (int i = 0; i < count; i++) {
    const number* map = f.terms[i] + (size_t)picture * f.heights[i] * f.widths[i] * channels;
    const bool blended = f.bilinear && f.factors[i] > 1;
    const Between v = between(row % f.height, f.factors[i], f.heights[i], blended);
    const size_t line = (size_t)f.widths[i] * channels;
    terms[i] = {map + v.first * line, map + v.second * line, v.second_share, blended};
  }
  number* y = f.y + (size_t)row * f.width * channels;
  for (int x = 0; x < f.width; x++)
    for (int c = 0; c < channels; c += WIDTH) {
      const int part = channels - c;
      Values sum = blend(terms[0], corners[x], c, part);
      for (int i = 1; i < count; i++) sum = sum + blend(terms[i], corners[i * f.width + x], c, part);
      store_values(y + (size_t)x * channels + c, relu(sum), part);
    }
}

extern "C" void hrformer_fusion(const Fusion* settings) {
  const Fusion f = *settings;
  int count = 0;
  while (count < 4 && f.terms[count]) count++;
  Corners* corners = (Corners*)thread_buffer((size_t)4 * f.width * sizeof(Corners) / sizeof(float));
  for (int i = 0; i < count; i++)
    for (int x = 0; x < f.width; x++) {
      const Between h = between(x, f.factors[i], f.widths[i], f.bilinear && f.factors[i] > 1);
      corners[i * f.width + x] = {(ptrdiff_t)h.first * f.channels, (ptrdiff_t)h.second * f.channels, h.second_share};
    }
  for_runs(f.threads, f.batch * f.height, [&](int first, int last) {
    const Mode mode;
    for (int row = first; row < last; row++) fuse_row(f, count, row, corners);
  });
}
