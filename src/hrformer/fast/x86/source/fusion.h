// The sum of a fusion unit and its ReLU: terms of the result's size, and smaller ones resized on the way.
//
// Included once the build's numbers are known: `number` is one of them in memory, `Values` what `load_values` makes of
// the next WIDTH of them, `load_sums` and `store_sums` do the same with floats, `Mode` is how the calling thread treats
// small numbers for as long as one lives.

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

// One cell of a term: the two cells of its row that it lies between, offsets in numbers, and how much of the second
// counts.
struct Sides {
  ptrdiff_t first, second;
  float share;
};

// A term at one output row: the row of its map, or, where it is resized, two rows blended, of `filled` floats a cell.
struct Term {
  const number* row;
  const float* blended;
};

static INLINE int filled(const Fusion& f) { return (f.channels + WIDTH - 1) / WIDTH * WIDTH; }

// What blended rows take of a thread's memory, in floats.
static size_t blended_floats(const Fusion& f, int count) {
  size_t cells = 0;
  for (int i = 0; i < count; i++) cells += f.widths[i];
  return cells * filled(f);
}

static void blend_rows(const Fusion& f, int width, const number* upper, const number* lower, float share, float* out) {
  const vec low = splat(share), high = splat(1 - share);
  const int channels = f.channels, apart = filled(f);
  for (int x = 0; x < width; x++, upper += channels, lower += channels, out += apart)
    for (int c = 0; c < channels; c += WIDTH)
      store_sums(out + c, high * load_values(upper + c, channels - c) + low * load_values(lower + c, channels - c));
}

static INLINE Values at_cell(const Term& t, const Sides& s, int c, int part) {
  if (!t.blended) return load_values(t.row + s.first + c, part);
  return splat(1 - s.share) * load_sums(t.blended + s.first + c) + splat(s.share) * load_sums(t.blended + s.second + c);
}

static void fuse_row(const Fusion& f, int count, int row, const Sides* sides, float* memory) {
  const int picture = row / f.height, channels = f.channels;
  Term terms[4];
  for (int i = 0; i < count; i++) {
    const number* map = f.terms[i] + (size_t)picture * f.heights[i] * f.widths[i] * channels;
    const bool blended = f.bilinear && f.factors[i] > 1;
    const Between v = between(row % f.height, f.factors[i], f.heights[i], blended);
    const size_t line = (size_t)f.widths[i] * channels;
    terms[i] = {map + v.first * line, blended ? memory : nullptr};
    if (!blended) continue;
    blend_rows(f, f.widths[i], terms[i].row, map + v.second * line, v.second_share, memory);
    memory += (size_t)f.widths[i] * filled(f);
  }
  number* y = f.y + (size_t)row * f.width * channels;
  for (int x = 0; x < f.width; x++)
    for (int c = 0; c < channels; c += WIDTH) {
      const int part = channels - c;
      Values sum = at_cell(terms[0], sides[x], c, part);
      for (int i = 1; i < count; i++) sum = sum + at_cell(terms[i], sides[i * f.width + x], c, part);
      store_values(y + (size_t)x * channels + c, relu(sum), part);
    }
}

extern "C" void hrformer_fusion(const Fusion* settings) {
  const Fusion f = *settings;
  int count = 0;
  while (count < 4 && f.terms[count]) count++;
  Sides* sides = (Sides*)shared_buffer((size_t)4 * f.width * sizeof(Sides) / sizeof(float));
  for (int i = 0; i < count; i++) {
    const bool blended = f.bilinear && f.factors[i] > 1;
    const ptrdiff_t apart = blended ? filled(f) : f.channels;
    for (int x = 0; x < f.width; x++) {
      const Between h = between(x, f.factors[i], f.widths[i], blended);
      sides[i * f.width + x] = {h.first * apart, h.second * apart, h.second_share};
    }
  }
  for_runs(f.threads, f.batch * f.height, [&](int first, int last) {
    const Mode mode;
    float* memory = thread_buffer(blended_floats(f, count));
    for (int row = first; row < last; row++) fuse_row(f, count, row, sides, memory);
  });
}
