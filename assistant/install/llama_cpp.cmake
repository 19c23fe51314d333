# Limits llama-cpp-python's build to the libraries that Underkeel loads, llama and ggml, and leaves
# out the instructions that crash.
#
# CMake reads this file right after project(llama_cpp), because the build passes
# -DCMAKE_PROJECT_llama_cpp_INCLUDE=<this file>. The `set` lines set normal variables, which hide the
# cache entries of the same name: option() leaves them alone (policy CMP0077), and so does
# set(LLAMA_BUILD_COMMON ON CACHE BOOL "" FORCE) (policy CMP0126).

# The multimodal library.
set(LLAVA_BUILD OFF)
# llama.cpp's helpers for its command-line tools.
set(LLAMA_BUILD_COMMON OFF)

# On Intel CPUs with AMX, ggml moves weights into its AMX buffer, and models of several quantisations
# end in a segmentation fault there (ggml-org/llama.cpp#20824, open). Without AMX it repacks them for
# AVX-512, which works. The build uses -march=native, so these options switch it off again.
include(CheckCCompilerFlag)
check_c_compiler_flag(-mno-amx-int8 UNDERKEEL_HAS_AMX_FLAGS)
if(UNDERKEEL_HAS_AMX_FLAGS)
  add_compile_options(
    "$<$<COMPILE_LANGUAGE:C,CXX>:-mno-amx-tile>"
    "$<$<COMPILE_LANGUAGE:C,CXX>:-mno-amx-int8>"
    "$<$<COMPILE_LANGUAGE:C,CXX>:-mno-amx-bf16>")
endif()
