#include "tests/gpu/emulation/shared_memory.h"

#include <elf.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>
#include <string_view>
#include <vector>

namespace shardline::emulation {
namespace {

// "Local entity of a function within shardline::kernels::cuda", as the Itanium C++ ABI writes it.
constexpr std::string_view kPrefix = "_ZZN9shardline7kernels4cuda";

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

std::vector<std::span<char>> FindVariables() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  const std::vector<char> image{std::istreambuf_iterator<char>(file), {}};
  const auto* const header = reinterpret_cast<const ElfW(Ehdr)*>(image.data());
  const auto* const sections = reinterpret_cast<const ElfW(Shdr)*>(image.data() + header->e_shoff);
  std::vector<std::span<char>> variables;
  for (int s = 0; s < header->e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) continue;
    const char* const names = image.data() + sections[sections[s].sh_link].sh_offset;
    const auto* const symbols =
        reinterpret_cast<const ElfW(Sym)*>(image.data() + sections[s].sh_offset);
    for (size_t i = 0; i < sections[s].sh_size / sizeof(ElfW(Sym)); ++i) {
      const ElfW(Sym)& symbol = symbols[i];
      const std::string_view name = names + symbol.st_name;
      if (ELF64_ST_TYPE(symbol.st_info) != STT_OBJECT || !name.starts_with(kPrefix) ||
          symbol.st_shndx >= header->e_shnum || sections[symbol.st_shndx].sh_type != SHT_NOBITS) {
        continue;
      }
      variables.push_back(
          {reinterpret_cast<char*>(LoadAddress() + symbol.st_value), symbol.st_size});
    }
  }
  if (variables.empty()) {
    std::fprintf(stderr,
                 "the program's symbols have been stripped: no __shared__ variable found\n");
    std::abort();
  }
  return variables;
}

}  // namespace

void PoisonSharedMemory() {
  static const std::vector<std::span<char>> variables = FindVariables();
  for (const std::span<char> variable : variables) {
    std::memset(variable.data(), 0xff, variable.size());
  }
}

}  // namespace shardline::emulation
