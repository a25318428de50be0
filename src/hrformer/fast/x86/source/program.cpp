// A recorded sequence of kernels, run without going back to Python between them.

#include <stddef.h>
#include <string.h>

#include "team.h"

// Where a pointer inside a kernel's structure points to: into one of the memories that a run is given.
struct Relocation {
  int field;       // bytes from the start of the structure
  int memory;      // index
  ptrdiff_t place; // bytes from the start of the memory
};

struct Step {
  void (*function)(const void*);
  const void* settings;  // the kernel's structure, pointers into memories not yet set
  int size;              // of it, bytes
  int relocations;       // how many belong to this step, after those of the steps before
  // Of the first of several steps that make one map of another of the same size, picture by picture; else 0.
  int chain;     // how many steps
  int pictures;
  ptrdiff_t picture;  // bytes of one
  // How such a kernel is told to take one picture with one thread: integers inside its structure.
  int amount, one, threads;
};

static const int LARGEST = 1024;  // bytes of a structure, checked when it is recorded

struct Program {
  const Step* steps;
  const Relocation* relocations;
  char* const* memories;
  int count;
  int threads;  // the steps hold their own
};

static const int LONGEST = 16;  // steps of a chain, as when it is recorded

struct Settings {
  alignas(16) char bytes[LARGEST];
};

static void point(char* settings, const Relocation*& r, int count, char* const* memories) {
  for (; count > 0; count--, r++) {
    char* target = memories[r->memory] + r->place;
    memcpy(settings + r->field, &target, sizeof target);
  }
}

// One picture through all steps before the next: its maps stay in the core's cache from one kernel to the next. Both
// maps of a kernel are the first two pointers of its structure.
static void run_chain(const Step* steps, const Settings* settings, int picture) {
  for (int i = 0; i < steps->chain; i++) {
    Settings own = settings[i];
    char* maps[2];
    memcpy(maps, own.bytes, sizeof maps);
    for (char*& map : maps) map += picture * steps->picture;
    memcpy(own.bytes, maps, sizeof maps);
    const int single = 1;
    memcpy(own.bytes + steps[i].amount, &steps[i].one, sizeof(int));
    memcpy(own.bytes + steps[i].threads, &single, sizeof(int));
    steps[i].function(own.bytes);
  }
}

static void run(const void* data) {
  const Program* program = (const Program*)data;
  const Relocation* r = program->relocations;
  for (int i = 0; i < program->count;) {
    const Step* step = program->steps + i;
    const int steps = step->chain ? step->chain : 1;
    Settings settings[LONGEST];
    for (int j = 0; j < steps; j++) {
      memcpy(settings[j].bytes, step[j].settings, step[j].size);
      point(settings[j].bytes, r, step[j].relocations, program->memories);
    }
    if (step->chain) {
      for_parts(program->threads, step->pictures, [&](int picture) { run_chain(step, settings, picture); });
    } else {
      step->function(settings[0].bytes);
    }
    i += steps;
  }
}

extern "C" void hrformer_program(const Program* program) { with_team(program->threads, run, program); }
