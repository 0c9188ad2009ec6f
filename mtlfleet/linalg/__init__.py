"""Small exact solvers on the K x K Gram matrix of task gradients: numpy float64 on the CPU, one subject per file."""
