#include "payload.hpp"

#include <nixbuild/nar/writer.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::perf {

namespace {

constexpr std::size_t kFilesInDirectory = 100;
constexpr std::size_t kBlock = 8 * kMiB;

/// Bytes that look random and are the same in every run (xorshift64*).
std::string noise(std::size_t size, std::uint64_t seed) {
  std::string text;
  text.reserve(size + sizeof seed);
  std::uint64_t state = seed * 2 + 1;
  while (text.size() < size) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    const std::uint64_t word = state * 0x2545f4914f6cdd1dULL;
    text.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  text.resize(size);
  return text;
}

std::string prose(std::size_t size, std::size_t seed) {
  std::string text;
  for (std::size_t line = 0; text.size() < size; ++line) {
    text += fmt::format("{} line {} of a text that stands for a source file\n", seed, line);
  }
  text.resize(size);
  return text;
}

model::StorePath path_of(std::string_view series, std::size_t number) {
  const auto name = fmt::format("{}-{}", series, number);
  return {model::compress_hash(hash_of(HashAlgorithm::Sha256, bytes_of(name)).bytes()), name};
}

/// Hash and size of the NAR as it stands.
Payload complete(Payload payload, model::StorePath path) {
  Hasher hasher(HashAlgorithm::Sha256);
  std::uint64_t size = 0;
  for (const auto piece : payload.pieces) {
    hasher.update(piece);
    size += piece.size();
  }
  payload.info.path = std::move(path);
  payload.info.nar_hash = hasher.finish();
  payload.info.nar_size = size;
  payload.info.registration_time = 1;
  return payload;
}

void hold(Payload& payload, std::string text) {
  payload.owned.push_back(std::make_shared<const std::string>(std::move(text)));
  payload.pieces.push_back(bytes_of(*payload.owned.back()));
}

Payload empty_payload(const model::StorePath& path) {
  return Payload{{path, std::nullopt, {}, 0, {}, 0, false, {}, {}}, {}, {}};
}

Payload one_file(const model::StorePath& path, std::string_view contents) {
  std::string nar;
  StringSink sink(nar);
  nar::Writer writer(sink);
  writer.regular(false, contents.size());
  writer.contents(bytes_of(contents));
  writer.regular_end();
  writer.finish();
  auto payload = empty_payload(path);
  hold(payload, std::move(nar));
  return complete(std::move(payload), path);
}

} // namespace

Payload big_file(std::uint64_t size) {
  // A NAR around no contents, cut where they go: the gigabyte itself is one block many times.
  std::string empty;
  StringSink sink(empty);
  nar::Writer writer(sink);
  writer.regular(false, 0);
  writer.regular_end();
  writer.finish();
  constexpr std::size_t closing = 16; // the string ")", its length and padding
  auto head = empty.substr(0, empty.size() - closing);
  for (std::size_t i = 0; i < 8; ++i) {
    head[head.size() - 8 + i] = static_cast<char>(size >> (8 * i) & 0xff);
  }
  const auto path = path_of("big-file", 0);
  auto payload = empty_payload(path);
  hold(payload, std::move(head));
  auto block = std::make_shared<const std::string>(noise(kBlock, 1));
  payload.owned.push_back(block);
  for (std::uint64_t sent = 0; sent < size; sent += kBlock) {
    const auto part = std::min<std::uint64_t>(kBlock, size - sent);
    payload.pieces.push_back(bytes_of(*block).first(static_cast<std::size_t>(part)));
  }
  std::string tail((8 - size % 8) % 8, '\0');
  tail += empty.substr(empty.size() - closing);
  hold(payload, std::move(tail));
  return complete(std::move(payload), path);
}

Payload file_tree(std::size_t files) {
  std::string nar;
  StringSink sink(nar);
  nar::Writer writer(sink);
  writer.directory();
  for (std::size_t first = 0; first < files; first += kFilesInDirectory) {
    writer.entry(fmt::format("directory-{:06}", first / kFilesInDirectory));
    writer.directory();
    for (std::size_t i = first; i < std::min(first + kFilesInDirectory, files); ++i) {
      const auto text = prose(2'500 + i * 37 % 800, i);
      writer.entry(fmt::format("file-{:06}", i));
      writer.regular(false, text.size());
      writer.contents(bytes_of(text));
      writer.regular_end();
    }
    writer.directory_end();
  }
  writer.directory_end();
  writer.finish();
  const auto path = path_of("file-tree", files);
  auto payload = empty_payload(path);
  hold(payload, std::move(nar));
  return complete(std::move(payload), path);
}

std::vector<Payload> small_paths(std::size_t count, std::size_t file_size) {
  std::vector<Payload> payloads;
  payloads.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    payloads.push_back(one_file(path_of("small", i), noise(file_size, i)));
  }
  return payloads;
}

std::vector<Payload> linked_paths(std::size_t count) {
  std::vector<Payload> payloads;
  payloads.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    payloads.push_back(one_file(path_of("linked", i), fmt::format("path {}\n", i)));
    if (i > 0) {
      auto& references = payloads.back().info.references;
      for (const auto before : {i - 1, i / 2, i / 3, i / 5, i / 7}) {
        references.push_back(payloads[before].info.path);
      }
      model::sort_unique(references);
    }
  }
  return payloads;
}

model::StorePaths absent_paths(std::size_t count) {
  model::StorePaths paths;
  paths.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    paths.push_back(path_of("absent", i));
  }
  return paths;
}

} // namespace nixbuild::perf
