# Compile options that every target of ours links: warnings as errors, sanitizers.
add_library(shardline_options INTERFACE)
target_include_directories(shardline_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(shardline_options INTERFACE
  -Wall -Wextra -Werror -Wno-sign-compare -Wno-missing-field-initializers
  -ffp-contract=off -fno-math-errno)

# Beyond what the compilers' own sets hold: float to integer out of range, and indices of the
# standard library's containers.
set(sanitize_more -fno-omit-frame-pointer -fno-sanitize-recover=all -D_GLIBCXX_ASSERTIONS)
if(SHARDLINE_SANITIZE)
  target_compile_options(shardline_options INTERFACE
    -fsanitize=${SHARDLINE_SANITIZE} ${sanitize_more})
  if(SHARDLINE_SANITIZE MATCHES undefined)
    target_compile_options(shardline_options INTERFACE -fsanitize=float-cast-overflow)
  endif()
  target_link_options(shardline_options INTERFACE -fsanitize=${SHARDLINE_SANITIZE})
endif()
if(SHARDLINE_FUZZ)
  target_compile_options(shardline_options INTERFACE
    -fsanitize=fuzzer-no-link,address,undefined,float-cast-overflow ${sanitize_more})
  target_link_options(shardline_options INTERFACE -fsanitize=address,undefined)
endif()
