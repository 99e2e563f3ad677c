#include "cli/chat.h"

#include <unistd.h>

#include <csignal>
#include <iostream>

#include "cli/line_reader.h"

namespace shardline::cli {

ExitCode RunChat(const GenerateOptions& options) {
  const bool terminal = isatty(STDIN_FILENO) != 0;
  const auto channel = Connect(options.client);
  if (!channel.ok()) return ReportUsage(std::string(channel.status().message()));
  const auto stub = v1::Generation::NewStub(*channel);
  v1::GenerateRequest request;
  *request.mutable_sampling() = options.sampling;
  v1::Chat& chat = *request.mutable_chat();
  const auto reset = [&] {
    chat.clear_messages();
    if (!options.system.empty()) AddMessage(chat, "system", options.system);
  };
  reset();
  if (terminal) {
    std::cerr << "Type a message. /reset forgets the conversation, /exit or Ctrl-D ends it, "
                 "Ctrl-C stops an answer.\n";
  }
  LineReader lines;
  std::string line;
  while (true) {
    if (terminal) std::cerr << "> " << std::flush;
    switch (lines.Next(line)) {
      case LineReader::Got::kLine:
        break;
      case LineReader::Got::kEnd:
        if (terminal) std::cerr << std::endl;
        return kOk;
      case LineReader::Got::kTerminate:
        return kCancelled;
      case LineReader::Got::kInterrupt:
        if (!terminal) return kCancelled;
        std::cerr << "\n(/exit or Ctrl-D ends)\n";
        continue;
    }
    if (line == "/exit") return kOk;
    if (line == "/reset") {
      reset();
      continue;
    }
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    AddMessage(chat, "user", line);
    const Answer answer = StreamAnswer(*stub, options.client, request, PrintText);
    if (answer.status.ok() || !answer.text.empty()) std::cout << std::endl;
    if (answer.status.ok() && options.stats) PrintStats(answer);
    if (!answer.status.ok()) {
      const bool stopped = answer.signal == SIGINT && terminal;
      const ExitCode code = stopped ? kCancelled : Report(answer.status, options.client.address);
      if (!terminal || answer.signal == SIGTERM || !std::cout.good()) return code;
    }
    // What was said stays said; a question that got no answer is as if never asked.
    if (answer.status.ok() || !answer.text.empty()) {
      AddMessage(chat, "assistant", answer.text);
    } else {
      chat.mutable_messages()->RemoveLast();
    }
  }
}

}  // namespace shardline::cli
