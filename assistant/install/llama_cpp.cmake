# Limits llama-cpp-python's build to the libraries that Underkeel loads, llama and ggml, leaves out
# the instructions that crash, and makes attention on the CPU faster.
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

# Attention on the CPU, in two places of ggml-cpu/ops.cpp:
# - For a single row over 512 cells or more, ggml splits the cells among the threads and adds up the
#   parts. Several rows at once are not split, so their sums differ in the last bits, and drafts,
#   which are checked several rows at a time, could change the text. With as many heads as threads
#   the split gains nothing: each thread has heads of its own.
# - ggml computes attention in tiles from 64 rows on. At 1,200 cells tiles are faster from 8 rows on,
#   and a batch of 48 rows takes 35 to 40 % of the time.
# Where llama.cpp has changed these lines, it is built as it is: drafts are then checked as with any
# other build.
set(underkeel_ops "${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp/ggml/src/ggml-cpu/ops.cpp")
if(EXISTS "${underkeel_ops}")
  file(READ "${underkeel_ops}" underkeel_source)
  string(REPLACE "GGML_TYPE_F32 && nek1 >= 512;" "GGML_TYPE_F32 && nek1 >= 512 && neq2 < nth;"
    underkeel_changed "${underkeel_source}")
  string(REPLACE "neq1 >= Q_TILE_SZ);" "neq1 >= 8);" underkeel_changed "${underkeel_changed}")
  if(NOT underkeel_changed STREQUAL underkeel_source)
    file(WRITE "${underkeel_ops}" "${underkeel_changed}")
  endif()
endif()
