// A recorded sequence of kernels, run without going back to Python between them.

#include <stddef.h>
#include <string.h>

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
};

static const int LARGEST = 1024;  // bytes of a structure, checked when it is recorded

struct Program {
  const Step* steps;
  const Relocation* relocations;
  char* const* memories;
  int count;
  int threads;  // the steps hold their own
};

extern "C" void hrformer_program(const Program* program) {
  const Relocation* r = program->relocations;
  for (int i = 0; i < program->count; i++) {
    const Step& step = program->steps[i];
    alignas(16) char settings[LARGEST];
    memcpy(settings, step.settings, step.size);
    for (int end = step.relocations; end > 0; end--, r++) {
      char* target = program->memories[r->memory] + r->place;
      memcpy(settings + r->field, &target, sizeof target);
    }
    step.function(settings);
  }
}
