#pragma once

#include "cli/generate.h"

namespace shardline::cli {

/// A conversation on the terminal: /reset forgets it, /exit ends, Ctrl-C cancels an answer. From a
/// pipe, each line is a message and the first error ends it.
ExitCode RunChat(const GenerateOptions& options);

}  // namespace shardline::cli
