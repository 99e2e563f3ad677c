# The CUDA backend: found when a toolkit is there, left out otherwise. Sets SHARDLINE_HAS_CUDA.
#   SHARDLINE_CUDA=AUTO  with CUDA if cuBLASLt, NCCL and nvcc are found
#   SHARDLINE_CUDA=ON    an error if they are not
#   SHARDLINE_CUDA=OFF   without
set(SHARDLINE_CUDA AUTO CACHE STRING "CUDA backend: AUTO, ON or OFF")
set_property(CACHE SHARDLINE_CUDA PROPERTY STRINGS AUTO ON OFF)
set(SHARDLINE_HAS_CUDA OFF)
if(SHARDLINE_CUDA STREQUAL "OFF" OR SHARDLINE_FUZZ)
  return()
endif()

find_program(SHARDLINE_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH
  PATHS /usr/local/cuda PATH_SUFFIXES bin)
set(missing "")
if(SHARDLINE_NVCC)
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${SHARDLINE_NVCC})
  endif()
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 89-real 90a-real CACHE STRING "Ampere, Ada, Hopper")
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.26 does not know that nvcc has it
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  find_package(CUDAToolkit)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT}/lib)
  if(NOT TARGET CUDA::cublasLt)
    string(APPEND missing " cuBLASLt")
  endif()
  if(NOT NCCL_INCLUDE_DIR OR NOT NCCL_LIBRARY)
    string(APPEND missing " NCCL")
  endif()
else()
  set(missing " nvcc")
endif()

if(missing)
  if(SHARDLINE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SHARDLINE_CUDA is ON, but not found:${missing}")
  endif()
  message(STATUS "CUDA backend: left out, not found:${missing}")
  return()
endif()
set(SHARDLINE_HAS_CUDA ON)
message(STATUS "CUDA backend: toolkit ${CUDAToolkit_VERSION}, for ${CMAKE_CUDA_ARCHITECTURES}")

add_library(shardline_nccl INTERFACE)
target_include_directories(shardline_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
target_link_libraries(shardline_nccl INTERFACE ${NCCL_LIBRARY} CUDA::cudart)

# No contraction: a product and a sum are rounded apart unless the source says fmaf, in every kernel
# that shares a piece of arithmetic. A register spill is an error; the launcher keeps what ptxas says
# of every kernel beside its object file, for scripts/check_kernels.py.
add_library(shardline_cuda_options INTERFACE)
target_include_directories(shardline_cuda_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(shardline_cuda_options INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false --Werror=all-warnings
    -Xptxas=--verbose,--warn-on-spills,--warning-as-error
    -Xcompiler=-Wall,-Wextra,-Werror,-Wno-sign-compare,-Wno-missing-field-initializers>)
set(CMAKE_CUDA_COMPILER_LAUNCHER ${PROJECT_SOURCE_DIR}/scripts/nvcc_report.sh ${CMAKE_CXX_COMPILER_LAUNCHER})
