#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/initramfs.hpp>

#include <catch2/catch.hpp>

#include <charconv>
#include <string>
#include <vector>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

struct Entry {
  std::string name;
  std::uint32_t mode = 0;
  std::uint32_t owner = 0;
  std::uint32_t time = 0;
  std::string contents;
};

std::uint32_t field(std::string_view header, std::size_t index) {
  std::uint32_t value = 0;
  const auto text = header.substr(6 + 8 * index, 8);
  REQUIRE(std::from_chars(text.data(), text.data() + text.size(), value, 16).ec == std::errc{});
  return value;
}

std::size_t aligned(std::size_t size) {
  return (size + 3) / 4 * 4;
}

/// By the description of the newc format, not by the library that wrote it.
std::vector<Entry> entries_of(std::string_view bytes) {
  std::vector<Entry> entries;
  for (;;) {
    REQUIRE(bytes.size() >= 110);
    REQUIRE(bytes.starts_with("070701"));
    Entry entry;
    entry.mode = field(bytes, 1);
    entry.owner = field(bytes, 2) + field(bytes, 3);
    entry.time = field(bytes, 5);
    const std::size_t size = field(bytes, 6);
    const std::size_t name_size = field(bytes, 11);
    entry.name = bytes.substr(110, name_size - 1);
    bytes.remove_prefix(aligned(110 + name_size));
    entry.contents = bytes.substr(0, size);
    bytes.remove_prefix(std::min(aligned(size), bytes.size()));
    if (entry.name == "TRAILER!!!") {
      return entries;
    }
    entries.push_back(std::move(entry));
  }
}

Bytes bytes(std::string_view text) {
  const auto view = bytes_of(text);
  return {view.begin(), view.end()};
}

InitramfsInputs some_inputs() {
  return {bytes("guest"), bytes("shell"), {{"z.ko", bytes("zz")}, {"a.ko.xz", bytes("a")}}};
}

std::string code_of(const InitramfsInputs& inputs) {
  try {
    (void)build_initramfs(inputs);
  } catch (const Error& error) {
    return error.code();
  }
  return "none";
}

} // namespace

TEST_CASE("initramfs: programs and modules are where the guest looks", "[sandbox]") {
  const auto archive = build_initramfs(some_inputs());
  std::vector<std::string> names;
  for (const auto& entry : entries_of(text_of(archive))) {
    names.push_back(entry.name);
    CHECK(entry.time == 1);
    CHECK(entry.owner == 0);
    if (entry.name == "init" || entry.name == "bin/busybox") {
      CHECK(entry.mode == 0100555);
      CHECK(entry.contents == (entry.name == "init" ? "guest" : "shell"));
    } else if (entry.name == "modules/order") {
      CHECK(entry.contents == "z.ko\na.ko.xz\n");
    } else if (entry.name == "modules/z.ko") {
      CHECK(entry.mode == 0100444);
      CHECK(entry.contents == "zz");
    }
  }
  CHECK(names == std::vector<std::string>{"bin",
                                          "bin/busybox",
                                          "dev",
                                          "init",
                                          "modules",
                                          "modules/a.ko.xz",
                                          "modules/order",
                                          "modules/z.ko",
                                          "proc",
                                          "run",
                                          "sys"});
  CHECK(archive == build_initramfs(some_inputs()));
}

TEST_CASE("initramfs: the program for builtin builders is there where it is given", "[sandbox]") {
  auto inputs = some_inputs();
  inputs.builtin = bytes("builtin");
  for (const auto& entry : entries_of(text_of(build_initramfs(inputs)))) {
    if (entry.name == "bin/nixbuild-builtin") {
      CHECK(entry.mode == 0100555);
      CHECK(entry.contents == "builtin");
      return;
    }
  }
  FAIL("it is not there");
}

TEST_CASE("initramfs: modules on demand are there, but not in the order of the boot", "[sandbox]") {
  auto inputs = some_inputs();
  inputs.modules.push_back({"sctp.ko", bytes("s"), true});
  bool there = false;
  for (const auto& entry : entries_of(text_of(build_initramfs(inputs)))) {
    there = there || (entry.name == "modules/sctp.ko" && entry.contents == "s");
    if (entry.name == "modules/order") {
      CHECK(entry.contents == "z.ko\na.ko.xz\n");
    }
  }
  CHECK(there);
}

TEST_CASE("initramfs: bad names and missing programs are refused", "[sandbox][reject]") {
  CHECK(code_of(some_inputs()) == "none");
  for (const std::string name : {"a/b", "", "..", "order", "x\ny", "z.ko"}) {
    auto inputs = some_inputs();
    inputs.modules.push_back({name, bytes("x")});
    CHECK(code_of(inputs) == "sandbox.initramfs");
  }
  auto inputs = some_inputs();
  inputs.guest.clear();
  CHECK(code_of(inputs) == "sandbox.initramfs");
  inputs = some_inputs();
  inputs.busybox.clear();
  CHECK(code_of(inputs) == "sandbox.initramfs");
}
