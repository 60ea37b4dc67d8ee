// Speed of the rooms nar and segment. Everything is in memory; sinks count and drop.

#include <nixbuild/base/digest.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/nar/reference_scan.hpp>
#include <nixbuild/nar/writer.hpp>
#include <nixbuild/segment/compose.hpp>
#include <nixbuild/segment/reader.hpp>
#include <nixbuild/segment/writer.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

using namespace nixbuild;

namespace {

constexpr std::size_t kChunk = 64 * kKiB;
constexpr int kTinyFiles = 200'000;

struct NullSink final : ByteSink {
  void write(ByteView bytes) override { count += bytes.size(); }

  std::uint64_t count = 0;
};

struct NullEvents final : nar::EventSink {
  void regular(bool, std::uint64_t size) override { count += size; }

  void contents(ByteView bytes) override { count += bytes.size(); }

  void regular_end() override {}

  void symlink(std::string_view target) override { count += target.size(); }

  void directory() override {}

  void entry(std::string_view name) override { count += name.size(); }

  void directory_end() override {}

  std::uint64_t count = 0;
};

struct NullMetadata final : segment::PatchableSink {
  void append(ByteView bytes) override { count += bytes.size(); }

  void patch(std::uint64_t, ByteView) override {}

  std::uint64_t count = 0;
};

struct KeptMetadata final : segment::PatchableSink {
  void append(ByteView more) override { bytes.insert(bytes.end(), more.begin(), more.end()); }

  void patch(std::uint64_t offset, ByteView patch) override {
    std::copy(patch.begin(), patch.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
  }

  Bytes bytes;
};

/// A flat directory of 200,000 files of 100 bytes.
void emit_tiny(nar::EventSink& sink) {
  const std::string contents(100, 'c');
  sink.directory();
  for (int i = 0; i < kTinyFiles; ++i) {
    sink.entry("some-file-" + std::to_string(1'000'000 + i));
    sink.regular(false, contents.size());
    sink.contents(bytes_of(contents));
    sink.regular_end();
  }
  sink.directory_end();
}

const std::string& tiny_archive() {
  static const std::string archive = [] {
    std::string out;
    StringSink sink(out);
    nar::Writer writer(sink);
    emit_tiny(writer);
    writer.finish();
    return out;
  }();
  return archive;
}

void feed_in_chunks(nar::Reader& reader, std::string_view archive) {
  for (std::size_t at = 0; at < archive.size(); at += kChunk) {
    reader.feed(bytes_of(archive.substr(at, kChunk)));
  }
}

void read_tiny_files(benchmark::State& state) {
  const auto& archive = tiny_archive();
  for (auto _ : state) {
    NullEvents sink;
    nar::Reader reader(sink);
    feed_in_chunks(reader, archive);
    benchmark::DoNotOptimize(sink.count);
  }
  state.SetItemsProcessed(state.iterations() * kTinyFiles);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(archive.size()));
}

BENCHMARK(read_tiny_files)->Unit(benchmark::kMillisecond);

/// One file of 1 GiB from one chunk that is fed again and again.
void read_huge_file(benchmark::State& state) {
  const std::string chunk(kChunk, 'x');
  std::string head;
  StringSink head_sink(head);
  nar::Writer writer(head_sink);
  writer.regular(false, 0);
  writer.regular_end();
  writer.finish();
  head.resize(96);
  head[88 + 3] = 0x40; // 1 GiB, little endian
  for (auto _ : state) {
    NullEvents sink;
    nar::Reader reader(sink);
    reader.feed(bytes_of(head));
    for (std::uint64_t left = kGiB; left > 0; left -= kChunk) {
      reader.feed(bytes_of(chunk));
    }
    benchmark::DoNotOptimize(sink.count);
  }
  state.SetBytesProcessed(state.iterations() * std::int64_t{1} * static_cast<std::int64_t>(kGiB));
}

BENCHMARK(read_huge_file)->Unit(benchmark::kMicrosecond);

void read_and_hash_tiny_files(benchmark::State& state) {
  const auto& archive = tiny_archive();
  for (auto _ : state) {
    NullEvents sink;
    nar::Reader reader(sink);
    Hasher hasher(HashAlgorithm::Sha256);
    for (std::size_t at = 0; at < archive.size(); at += kChunk) {
      const auto chunk = bytes_of(std::string_view(archive).substr(at, kChunk));
      hasher.update(chunk);
      reader.feed(chunk);
    }
    benchmark::DoNotOptimize(hasher.finish());
  }
  state.SetItemsProcessed(state.iterations() * kTinyFiles);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(archive.size()));
}

BENCHMARK(read_and_hash_tiny_files)->Unit(benchmark::kMillisecond);

void write_tiny_files(benchmark::State& state) {
  for (auto _ : state) {
    NullSink sink;
    nar::Writer writer(sink);
    emit_tiny(writer);
    writer.finish();
    benchmark::DoNotOptimize(sink.count);
  }
  state.SetItemsProcessed(state.iterations() * kTinyFiles);
}

BENCHMARK(write_tiny_files)->Unit(benchmark::kMillisecond);

enum Text : std::int64_t { kRandomBytes, kProse, kAllCandidates };

std::string text_of_kind(std::int64_t kind) {
  std::mt19937_64 random(1);
  std::string text(64 * kMiB, ' ');
  for (auto& c : text) {
    const auto value = random();
    c = static_cast<char>(value);
    if (kind == kProse) {
      c = value % 7 == 0 ? ' ' : static_cast<char>('a' + value % 26);
    } else if (kind == kAllCandidates) {
      c = "0123456789abcdfghijklmnpqrsvwxyz"[value % 32];
    }
  }
  return text;
}

void scan_references(benchmark::State& state) {
  const auto text = text_of_kind(state.range(0));
  std::mt19937_64 random(2);
  std::vector<std::string> parts(500);
  for (auto& part : parts) {
    for (int i = 0; i < 32; ++i) {
      part += "0123456789abcdfghijklmnpqrsvwxyz"[random() % 32];
    }
  }
  for (auto _ : state) {
    nar::ReferenceScanner scanner(parts);
    for (std::size_t at = 0; at < text.size(); at += kChunk) {
      scanner.feed(bytes_of(std::string_view(text).substr(at, kChunk)));
    }
    benchmark::DoNotOptimize(scanner.found());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
}

BENCHMARK(scan_references)
    ->Arg(kRandomBytes)
    ->Arg(kProse)
    ->Arg(kAllCandidates)
    ->Unit(benchmark::kMillisecond);

void store_tiny_files(benchmark::State& state) {
  const auto& archive = tiny_archive();
  for (auto _ : state) {
    NullSink data;
    NullMetadata metadata;
    segment::Writer writer(data, metadata);
    nar::Reader reader(writer);
    feed_in_chunks(reader, archive);
    writer.finish();
    benchmark::DoNotOptimize(metadata.count);
  }
  state.SetItemsProcessed(state.iterations() * kTinyFiles);
}

BENCHMARK(store_tiny_files)->Unit(benchmark::kMillisecond);

struct Closure {
  std::vector<Bytes> metadata;
  std::vector<std::uint64_t> data_bytes;
  std::vector<segment::Part> parts;
};

/// 300 parts with 37,500 inodes: a quarter directories, some links, files of typical sizes.
const Closure& closure() {
  static const Closure made = [] {
    Closure closure;
    std::mt19937_64 random(3);
    const std::string contents(200'000, 'x');
    for (int part = 0; part < 300; ++part) {
      NullSink data;
      KeptMetadata metadata;
      segment::Writer writer(data, metadata);
      writer.directory();
      for (int d = 0; d < 25; ++d) {
        writer.entry("directory-" + std::to_string(100 + d));
        writer.directory();
        for (int f = 0; f < 4; ++f) {
          const auto size = static_cast<std::size_t>(1) << (random() % 17);
          writer.entry("some-file-" + std::to_string(f));
          writer.regular(f == 0, size);
          writer.contents(bytes_of(contents).first(size));
          writer.regular_end();
        }
        writer.directory_end();
      }
      writer.directory_end();
      writer.finish();
      closure.metadata.push_back(std::move(metadata.bytes));
      closure.data_bytes.push_back(data.count);
    }
    for (std::size_t i = 0; i < closure.metadata.size(); ++i) {
      closure.parts.push_back({"0123456789abcdfghijklmnpqrsvwxyz-part-" + std::to_string(i),
                               closure.metadata[i],
                               closure.data_bytes[i]});
    }
    return closure;
  }();
  return made;
}

void compose_closure(benchmark::State& state) {
  const auto& parts = closure().parts;
  std::uint64_t head_bytes = 0;
  for (auto _ : state) {
    NullSink head;
    head_bytes = segment::compose("/nix/store", parts, head).head_bytes;
  }
  state.counters["head_KiB"] = static_cast<double>(head_bytes / kKiB);
}

BENCHMARK(compose_closure)->Unit(benchmark::kMillisecond);

void regenerate_closure(benchmark::State& state) {
  const auto& parts = closure().parts;
  for (auto _ : state) {
    std::uint64_t bytes = 0;
    for (const auto& part : parts) {
      segment::NarSource source(part.metadata, part.data_bytes);
      while (const auto piece = source.next()) {
        bytes += piece->index();
      }
    }
    benchmark::DoNotOptimize(bytes);
  }
}

BENCHMARK(regenerate_closure)->Unit(benchmark::kMillisecond);

} // namespace

BENCHMARK_MAIN();
