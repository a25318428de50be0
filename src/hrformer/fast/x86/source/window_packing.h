// Keys and values of a window's places, packed as the right operand of a product, see product.h. `row(place)` is where
// the `dim` numbers of a place start.

#pragma once

#include "product.h"
#include "transpose.h"

// Transposed, (dim, places): what scores are products with.
template <class RowOf> static inline void pack_across(RowOf row, int places, int dim, float* out) {
  for (int start = 0, left = vectors_of(places); left > 0;) {
    const int taken = panel_vectors(left);
    for (int v = 0; v < taken; v++)
      for (int d = 0; d < dim; d += LANES) {
        vec block[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
          const int place = start + v * LANES + i;
          block[i] = place < places ? load_part(row(place) + d, dim - d) : (vec){};
        }
        transpose(block);
        for (int i = 0; i < LANES && d + i < dim; i++) store(out + ((size_t)(d + i) * taken + v) * LANES, block[i]);
      }
    out += (size_t)taken * LANES * dim;
    start += taken * LANES;
    left -= taken;
  }
}

// As they are, (places, dim): what probabilities are products with.
template <class RowOf> static inline void pack_along(RowOf row, int places, int dim, float* out) {
  for (int start = 0, left = vectors_of(dim); left > 0;) {
    const int taken = panel_vectors(left);
    for (int place = 0; place < places; place++)
      for (int v = 0; v < taken; v++, out += LANES) {
        const int d = start + v * LANES;
        store(out, load_part(row(place) + d, dim - d));
      }
    start += taken * LANES;
    left -= taken;
  }
}
