// Speed of the serve codecs. Everything is in memory.

#include <nixbuild/protocol/serve.hpp>

#include <benchmark/benchmark.h>

#include <optional>
#include <string>
#include <string_view>

using namespace nixbuild;
using namespace nixbuild::protocol;

namespace {

const model::StoreDir kDir;

/// A QueryValidPaths of this many paths, as bytes, behind a client's hello.
std::string query_of(std::size_t paths) {
  serve::QueryValidPaths query;
  for (std::size_t i = 0; i < paths; ++i) {
    const auto digest = hash_of(HashAlgorithm::Sha1, bytes_of(std::to_string(i)));
    query.paths.emplace_back(digest.bytes(), "package-number-" + std::to_string(i));
  }
  std::string out;
  serve::write_client_hello(out, serve::kServerVersion);
  serve::write_request(out, kDir, serve::kServerVersion, query);
  return out;
}

/// Second argument: bytes that arrive at once.
void decode_query(benchmark::State& state) {
  const auto bytes = query_of(static_cast<std::size_t>(state.range(0)));
  const auto cut = static_cast<std::size_t>(state.range(1));
  for (auto _ : state) {
    serve::RequestReader reader(kDir);
    std::optional<serve::Request> request;
    for (std::size_t at = 0; at < bytes.size(); at += cut) {
      reader.feed(bytes_of(std::string_view(bytes).substr(at, cut)));
      request = reader.next();
    }
    benchmark::DoNotOptimize(request);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes.size()));
}

BENCHMARK(decode_query)
    ->Args({1, 65536})
    ->Args({100'000, 64 * 1024 * 1024})
    ->Args({100'000, 65536})
    ->Args({100'000, 1})
    ->Unit(benchmark::kMillisecond);

void encode_paths(benchmark::State& state) {
  model::StorePaths paths;
  for (std::int64_t i = 0; i < state.range(0); ++i) {
    const auto digest = hash_of(HashAlgorithm::Sha1, bytes_of(std::to_string(i)));
    paths.emplace_back(digest.bytes(), "package-number-" + std::to_string(i));
  }
  for (auto _ : state) {
    std::string out;
    serve::write_paths(out, kDir, paths);
    benchmark::DoNotOptimize(out);
  }
}

BENCHMARK(encode_paths)->Arg(100'000)->Unit(benchmark::kMillisecond);

} // namespace

BENCHMARK_MAIN();
