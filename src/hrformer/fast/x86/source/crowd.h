// Whether other processes want the cores, and what OpenMP does then.

#pragma once

// True where the calling thread had to wait for cores in the last second. `threads`: of the call.
bool is_crowded(int threads);
