# Limits llama-cpp-python's build to the libraries that Underkeel loads: llama and ggml.
#
# CMake reads this file right after project(llama_cpp), because the build passes
# -DCMAKE_PROJECT_llama_cpp_INCLUDE=<this file>. Both lines set normal variables, which hide the
# cache entries of the same name: option() leaves them alone (policy CMP0077), and so does
# set(LLAMA_BUILD_COMMON ON CACHE BOOL "" FORCE) (policy CMP0126).

# The multimodal library.
set(LLAVA_BUILD OFF)
# llama.cpp's helpers for its command-line tools.
set(LLAMA_BUILD_COMMON OFF)
