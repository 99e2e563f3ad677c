#include "tests/gpu/emulation/shared_memory.h"

#include <elf.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shardline::emulation {
namespace {

// "Local entity of a function within shardline::kernels::cuda", as the Itanium C++ ABI writes it.
constexpr std::string_view kPrefix = "_ZZN9shardline7kernels4cuda";
// The same in the anonymous namespace of a file, where kernels are.
constexpr std::string_view kFilePrefix = "_ZZN9shardline7kernels4cuda12_GLOBAL__N_1";

struct Variable {
  std::span<char> memory;
  std::string name;
};
struct Symbols {
  std::vector<Variable> variables;
  std::multimap<const void*, std::string> functions;
};

uintptr_t LoadAddress() {
  uintptr_t address = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        *static_cast<uintptr_t*>(out) = info->dlpi_addr;
        return 1;  // the program is the first
      },
      &address);
  return address;
}

Symbols ReadSymbols() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  const std::vector<char> image{std::istreambuf_iterator<char>(file), {}};
  const auto* const header = reinterpret_cast<const ElfW(Ehdr)*>(image.data());
  const auto* const sections = reinterpret_cast<const ElfW(Shdr)*>(image.data() + header->e_shoff);
  Symbols found;
  for (int s = 0; s < header->e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) continue;
    const char* const names = image.data() + sections[sections[s].sh_link].sh_offset;
    const auto* const symbols =
        reinterpret_cast<const ElfW(Sym)*>(image.data() + sections[s].sh_offset);
    for (size_t i = 0; i < sections[s].sh_size / sizeof(ElfW(Sym)); ++i) {
      const ElfW(Sym)& symbol = symbols[i];
      const std::string_view name = names + symbol.st_name;
      if (symbol.st_shndx == SHN_UNDEF || symbol.st_shndx >= header->e_shnum) continue;
      auto* const address = reinterpret_cast<char*>(LoadAddress() + symbol.st_value);
      const int type = ELF64_ST_TYPE(symbol.st_info);
      if (type == STT_FUNC) found.functions.emplace(address, name);
      if (type == STT_OBJECT && name.starts_with(kPrefix) &&
          sections[symbol.st_shndx].sh_type == SHT_NOBITS) {
        found.variables.push_back({{address, symbol.st_size}, std::string(name)});
      }
    }
  }
  if (found.variables.empty()) {
    std::fprintf(stderr,
                 "the program's symbols have been stripped: no __shared__ variable found\n");
    std::abort();
  }
  return found;
}

void Poison(std::span<char> memory) { std::memset(memory.data(), 0xff, memory.size()); }

const Symbols& AllSymbols() {
  static const Symbols* const symbols = [] {
    auto* const read = new Symbols(ReadSymbols());
    for (const Variable& variable : read->variables) Poison(variable.memory);
    return read;
  }();
  return *symbols;
}

std::vector<std::span<char>> FindVariablesOf(const void* kernel) {
  const Symbols& symbols = AllSymbols();
  const auto [begin, end] = symbols.functions.equal_range(kernel);
  std::vector<std::span<char>> memory;
  for (const Variable& variable : symbols.variables) {
    bool used = !variable.name.starts_with(kFilePrefix);
    for (auto name = begin; name != end && !used; ++name) {
      used = variable.name.starts_with("_ZZ" + name->second.substr(2) + "E");
    }
    if (used) memory.push_back(variable.memory);
  }
  return memory;
}

}  // namespace

void PoisonSharedMemory(const void* kernel) {
  static std::map<const void*, std::vector<std::span<char>>> variables;
  auto found = variables.find(kernel);
  if (found == variables.end()) found = variables.emplace(kernel, FindVariablesOf(kernel)).first;
  for (const std::span<char> memory : found->second) Poison(memory);
}

const char* TouchedSharedVariable() {
  for (const Variable& variable : AllSymbols().variables) {
    for (const char byte : variable.memory) {
      if (static_cast<unsigned char>(byte) != 0xff) return variable.name.c_str();
    }
  }
  return nullptr;
}

}  // namespace shardline::emulation
