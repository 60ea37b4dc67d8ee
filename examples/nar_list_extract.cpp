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
#include <memory>
#include <vector>

using namespace nixbuild;

namespace {

/// Tells every sink what is in the archive.
class Several final : public nar::EventSink {
public:
  void add(nar::EventSink& sink) { sinks_.push_back(&sink); }

  void regular(bool executable, std::uint64_t size) override {
    each([&](auto& sink) { sink.regular(executable, size); });
  }
  void contents(ByteView bytes) override {
    each([&](auto& sink) { sink.contents(bytes); });
  }
  void regular_end() override {
    each([](auto& sink) { sink.regular_end(); });
  }
  void symlink(std::string_view target) override {
    each([&](auto& sink) { sink.symlink(target); });
  }
  void directory() override {
    each([](auto& sink) { sink.directory(); });
  }
  void entry(std::string_view name) override {
    each([&](auto& sink) { sink.entry(name); });
  }
  void directory_end() override {
    each([](auto& sink) { sink.directory_end(); });
  }

private:
  template <class Call>
  void each(Call call) {
    for (auto* sink : sinks_) {
      call(*sink);
    }
  }

  std::vector<nar::EventSink*> sinks_;
};

} // namespace

int main(int argc, char** argv) try {
  nar::Listing listing;
  Several sinks;
  sinks.add(listing);
  std::unique_ptr<sandbox::TreeUnpacker> unpacker;
  if (argc > 1) {
    unpacker = std::make_unique<sandbox::TreeUnpacker>(AT_FDCWD, argv[1]);
    sinks.add(*unpacker);
  }
  nar::Reader reader(sinks);
  std::array<char, 65536> buffer{};
  while (std::cin.read(buffer.data(), buffer.size()), std::cin.gcount() > 0) {
    reader.feed(bytes_of({buffer.data(), static_cast<std::size_t>(std::cin.gcount())}));
  }
  reader.expect_finished();
  listing.for_each([](std::string_view path, const nar::ListedEntry& entry) {
    std::cout << (path.empty() ? "/" : path) << ' ' << entry.size << '\n';
  });
  return 0;
} catch (const Error& error) {
  std::cerr << error.what() << " [" << error.code() << "]\n";
  return exit_code_of(error.reaction());
}
