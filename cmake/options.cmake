# Compile options that every target of ours links: warnings as errors, sanitizers.
add_library(shardline_options INTERFACE)
target_include_directories(shardline_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(shardline_options INTERFACE
  -Wall -Wextra -Werror -Wno-sign-compare -Wno-missing-field-initializers
  -ffp-contract=off -fno-math-errno)

if(SHARDLINE_SANITIZE)
  target_compile_options(shardline_options INTERFACE
    -fsanitize=${SHARDLINE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(shardline_options INTERFACE -fsanitize=${SHARDLINE_SANITIZE})
endif()
if(SHARDLINE_FUZZ)
  target_compile_options(shardline_options INTERFACE
    -fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(shardline_options INTERFACE -fsanitize=address,undefined)
endif()
