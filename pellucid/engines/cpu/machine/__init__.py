"""The machine: a builder over LLVM, the processor, compiling and keeping of code, threads, memory and addresses."""
