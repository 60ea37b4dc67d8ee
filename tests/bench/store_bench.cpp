// Speed of the store over SQLite and files, below the directory that TMPDIR names. The CPU column
// is that of the whole process, threads included.

#include <nixbuild/base/digest.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/writer.hpp>
#include <nixbuild/store/files.hpp>
#include <nixbuild/store/sqlite.hpp>
#include <nixbuild/store/store.hpp>

#include <benchmark/benchmark.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace nixbuild;
using namespace nixbuild::store;

namespace {

constexpr std::size_t kChunk = 64 * kKiB;
constexpr std::uint64_t kBigFile = kGiB;
constexpr int kFiles = 50'000;
constexpr int kSmallPaths = 2'000;
constexpr std::size_t kPaths = 100'000;
constexpr int kReferences = 5;

class SystemClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override {
    return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  }

  [[nodiscard]] MonotonicTime monotonic() const override {
    return std::chrono::steady_clock::now();
  }
};

model::StorePath path_named(const std::string& name) {
  return {hash_of(HashAlgorithm::Sha256, bytes_of(name)).bytes().first(20), name};
}

/// A store in a directory of its own.
struct Place {
  Place() {
    std::string name = (std::filesystem::temp_directory_path() / "store-bench-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw_system_error("bench.directory", name);
    }
    dir = name;
    db = open_sqlite_metadata(dir / "metadata.sqlite");
    segments = open_file_segments(dir);
    store = std::make_unique<Store>(*db, *segments, clock, model::StoreDir());
    account = db->ensure_account("default");
  }

  ~Place() {
    store.reset();
    segments.reset();
    db.reset();
    std::filesystem::remove_all(dir);
  }

  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  [[nodiscard]] ImportRequest request(const std::string& name) const {
    return {.path = path_named(name),
            .deriver = {},
            .nar_hash = {},
            .nar_size = {},
            .references = {},
            .signatures = {},
            .content_address = {},
            .scan_for = {}};
  }

  /// Imports without registering.
  model::PathInfo seal(const std::string& name, std::string_view nar) {
    auto import = store->begin_import(account, request(name));
    for (std::size_t at = 0; at < nar.size(); at += kChunk) {
      import.feed(bytes_of(nar.substr(at, kChunk)));
    }
    return import.seal();
  }

  void add(const std::string& name, std::string_view nar) {
    const auto info = seal(name, nar);
    store->commit(account, {&info, 1});
  }

  SystemClock clock;
  std::filesystem::path dir;
  std::unique_ptr<MetadataDb> db;
  std::unique_ptr<SegmentStore> segments;
  std::unique_ptr<Store> store;
  AccountId account;
};

std::string nar_of_file(std::string_view contents) {
  std::string out;
  StringSink sink(out);
  nar::Writer writer(sink);
  writer.regular(false, contents.size());
  writer.contents(bytes_of(contents));
  writer.regular_end();
  writer.finish();
  return out;
}

std::string random_bytes(std::size_t size) {
  std::mt19937_64 random(1);
  std::string text(size, '\0');
  for (auto& c : text) {
    c = static_cast<char>(random());
  }
  return text;
}

/// Feeds what a NAR writer makes straight into an import, so that no archive is held in memory.
struct ImportSink final : ByteSink {
  explicit ImportSink(Import& of) : import(of) {}

  void write(ByteView bytes) override { import.feed(bytes); }

  Import& import;
};

void import_big_file(benchmark::State& state) {
  Place place;
  const auto block = random_bytes(kChunk);
  int round = 0;
  for (auto _ : state) {
    auto import =
        place.store->begin_import(place.account, place.request(std::to_string(round++) + "-big"));
    ImportSink sink(import);
    nar::Writer writer(sink);
    writer.regular(false, kBigFile);
    for (std::uint64_t at = 0; at < kBigFile; at += kChunk) {
      writer.contents(bytes_of(block));
    }
    writer.regular_end();
    writer.finish();
    const auto info = import.seal();
    place.store->commit(place.account, {&info, 1});
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(kBigFile) * state.iterations());
}

void import_many_files(benchmark::State& state) {
  Place place;
  const auto text = random_bytes(5'800);
  int round = 0;
  for (auto _ : state) {
    auto import =
        place.store->begin_import(place.account, place.request(std::to_string(round++) + "-tree"));
    ImportSink sink(import);
    nar::Writer writer(sink);
    writer.directory();
    for (int i = 0; i < kFiles; ++i) {
      writer.entry(std::to_string(100'000 + i));
      // 0 to 5.8 KB, 2.9 KB at the mean.
      const auto size = static_cast<std::size_t>(i) * 7919 % text.size();
      writer.regular(false, size);
      if (size > 0) {
        writer.contents(bytes_of(std::string_view(text).substr(0, size)));
      }
      writer.regular_end();
    }
    writer.directory_end();
    writer.finish();
    const auto info = import.seal();
    place.store->commit(place.account, {&info, 1});
  }
  state.SetItemsProcessed(std::int64_t{kFiles} * state.iterations());
}

void add_small_one_by_one(benchmark::State& state) {
  Place place;
  int number = 0;
  for (auto _ : state) {
    for (int i = 0; i < kSmallPaths; ++i) {
      const auto name = std::to_string(number++);
      place.add(name, nar_of_file(name));
    }
  }
  state.SetItemsProcessed(std::int64_t{kSmallPaths} * state.iterations());
}

void add_small_in_one_commit(benchmark::State& state) {
  Place place;
  int number = 0;
  for (auto _ : state) {
    std::vector<model::PathInfo> infos;
    for (int i = 0; i < kSmallPaths; ++i) {
      const auto name = std::to_string(number++);
      infos.push_back(place.seal(name, nar_of_file(name)));
    }
    place.store->commit(place.account, infos);
  }
  state.SetItemsProcessed(std::int64_t{kSmallPaths} * state.iterations());
}

void add_small_from_eight_threads(benchmark::State& state) {
  Place place;
  int round = 0;
  for (auto _ : state) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&place, prefix = std::to_string(round) + "-" + std::to_string(t)] {
        for (int i = 0; i < kSmallPaths / 8; ++i) {
          const auto name = prefix + "-" + std::to_string(i);
          place.add(name, nar_of_file(name));
        }
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    ++round;
  }
  state.SetItemsProcessed(std::int64_t{kSmallPaths} * state.iterations());
}

/// 100,000 registered paths, and them in another order.
struct Registered {
  Registered() {
    std::mt19937 random(1);
    model::StorePaths known;
    std::vector<model::PathInfo> infos;
    for (std::size_t i = 0; i < kPaths; ++i) {
      const auto name = "package-" + std::to_string(i) + "-1.0";
      model::PathInfo info{.path = path_named(name),
                           .deriver = path_named(name + ".drv"),
                           .nar_hash = hash_of(HashAlgorithm::Sha256, bytes_of(name)),
                           .nar_size = 1000,
                           .references = {},
                           .registration_time = 1,
                           .signatures = {"cache.example.org-1:" + std::string(88, 'x')},
                           .content_address = {}};
      for (int r = 0; r < kReferences && i > 0; ++r) {
        info.references.push_back(known[random() % i]);
      }
      model::sort_unique(info.references);
      known.push_back(info.path);
      infos.push_back(std::move(info));
    }
    place.db->register_paths(place.account, infos);
    paths = std::move(known);
  }

  Place place;
  model::StorePaths paths; ///< in no order of the database
};

void ask_valid(benchmark::State& state) {
  Registered base;
  for (auto _ : state) {
    benchmark::DoNotOptimize(base.place.db->valid_paths(base.place.account, base.paths));
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(kPaths) * state.iterations());
}

void ask_infos(benchmark::State& state) {
  Registered base;
  std::size_t references = 0;
  for (auto _ : state) {
    base.place.db->path_infos(base.place.account, base.paths, [&](const model::PathInfo& info) {
      references += info.references.size();
    });
  }
  benchmark::DoNotOptimize(references);
  state.SetItemsProcessed(static_cast<std::int64_t>(kPaths) * state.iterations());
}

void ask_closure(benchmark::State& state) {
  Registered base;
  for (auto _ : state) {
    benchmark::DoNotOptimize(base.place.db->closure(base.place.account, base.paths));
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(kPaths) * state.iterations());
}

void hold_lease(benchmark::State& state) {
  Registered base;
  for (auto _ : state) {
    auto lease = base.place.store->lease(base.place.account);
    lease.add(base.paths);
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(kPaths) * state.iterations());
}

} // namespace

#define NIXBUILD_STORE_BENCHMARK(name)                                                             \
  BENCHMARK(name)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime()->UseRealTime()

NIXBUILD_STORE_BENCHMARK(import_big_file)->Iterations(1);
NIXBUILD_STORE_BENCHMARK(import_many_files)->Iterations(1);
NIXBUILD_STORE_BENCHMARK(add_small_one_by_one)->Iterations(1);
NIXBUILD_STORE_BENCHMARK(add_small_in_one_commit)->Iterations(1);
NIXBUILD_STORE_BENCHMARK(add_small_from_eight_threads)->Iterations(1);
NIXBUILD_STORE_BENCHMARK(ask_valid);
NIXBUILD_STORE_BENCHMARK(ask_infos);
NIXBUILD_STORE_BENCHMARK(ask_closure);
NIXBUILD_STORE_BENCHMARK(hold_lease);

BENCHMARK_MAIN();
