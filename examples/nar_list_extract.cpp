// Lists a NAR archive that comes on standard input and, where a destination is named, makes its
// files there, in one pass and without keeping contents in memory:
//
//     nix-store --dump /nix/store/…-hello | nar_list_extract [DESTINATION]

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/listing.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/sandbox/tree_archive.hpp>

#include <fcntl.h>

#include <array>
#include <iostream>
#include <optional>

using namespace nixbuild;

int main(int argc, char** argv) try {
  // Any number of readers may look at the same bytes, each telling one sink what it sees.
  nar::Listing listing;
  nar::Reader lister(listing);
  std::optional<sandbox::TreeUnpacker> unpacker;
  std::optional<nar::Reader> extractor;
  if (argc > 1) {
    unpacker.emplace(AT_FDCWD, argv[1]);
    extractor.emplace(*unpacker);
  }
  std::array<char, 65536> buffer{};
  while (std::cin.read(buffer.data(), buffer.size()), std::cin.gcount() > 0) {
    const auto bytes = bytes_of({buffer.data(), static_cast<std::size_t>(std::cin.gcount())});
    lister.feed(bytes);
    if (extractor) {
      extractor->feed(bytes);
    }
  }
  lister.expect_finished();

  listing.for_each([](std::string_view path, const nar::ListedEntry& entry) {
    std::cout << (path.empty() ? "/" : path);
    if (entry.type == nar::EntryType::Symlink) {
      std::cout << " -> " << entry.target;
    } else if (entry.type == nar::EntryType::Regular) {
      std::cout << ' ' << entry.size << (entry.executable ? " executable" : "");
    }
    std::cout << '\n';
  });
  return 0;

} catch (const Error& error) {

  std::cerr << error.what() << " [" << error.code() << "]\n";
  return exit_code_of(error.reaction());
}
