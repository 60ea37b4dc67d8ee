// Compares servers of the serve protocol as whole processes: time, cpu and memory of each request,
// the servers taking turns. Prints a Markdown table. See --help and tests/perf/run.

#include "payload.hpp"
#include "server.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/export_stream.hpp>

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace nixbuild;
using namespace nixbuild::perf;
namespace serve = nixbuild::protocol::serve;

constexpr const char* kUsage =
    R"(Usage: serve-bench --server NAME=nixbuild:PROGRAM --server NAME=nix:PROGRAM … --dir NAME=DIR …
                   [--rounds N] [--paths N] [--adds N] [--files N] [--mib N] [--only TEXT]…

Every server gets private stores below each DIR. In every round each server runs every benchmark
once; medians are printed, and the ratio of each server to the last one named. Queries and dumps
run in the first DIR only. PROGRAM is a nixbuild-serve (its daemon starts by itself) or a nix-store.

    --rounds N   how often (4)                   --files N  files of the tree (50000)
    --paths N    paths that queries name (100000)  --mib N    size of the big file (1024)
    --adds N     small paths that are added (2000) --only TEXT  benchmarks whose name contains TEXT
)";

struct Options {
  std::vector<ServerCommand> servers;
  std::vector<std::pair<std::string, std::string>> directories;
  std::size_t rounds = 4;
  std::size_t paths = 100'000;
  std::size_t adds = 2'000;
  std::size_t files = 50'000;
  std::uint64_t mib = 1'024;
  std::vector<std::string> only;
};

[[noreturn]] void usage_error(const std::string& message) {
  fmt::print(stderr, "error: {}\n{}", message, kUsage);
  std::exit(2);
}

std::pair<std::string, std::string> split(const std::string& text, char at) {
  const auto place = text.find(at);
  if (place == std::string::npos) {
    usage_error(fmt::format("'{}' has no '{}'", text, at));
  }
  return {text.substr(0, place), text.substr(place + 1)};
}

ServerCommand parse_server(const std::string& text) {
  const auto [name, rest] = split(text, '=');
  const auto [kind, program] = split(rest, ':');
  if (kind != "nixbuild" && kind != "nix") {
    usage_error(fmt::format("'{}' is no kind of server", kind));
  }
  return {name, kind == "nix" ? ServerKind::Nix : ServerKind::Nixbuild, program};
}

Options parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--help" || word == "-h") {
      fmt::print("{}", kUsage);
      std::exit(0);
    }
    if (i + 1 == argc) {
      usage_error(word + " needs a value");
    }
    const std::string value = argv[++i];
    if (word == "--server") {
      options.servers.push_back(parse_server(value));
    } else if (word == "--dir") {
      options.directories.push_back(split(value, '='));
    } else if (word == "--rounds") {
      options.rounds = std::stoull(value);
    } else if (word == "--paths") {
      options.paths = std::stoull(value);
    } else if (word == "--adds") {
      options.adds = std::stoull(value);
    } else if (word == "--files") {
      options.files = std::stoull(value);
    } else if (word == "--mib") {
      options.mib = std::stoull(value);
    } else if (word == "--only") {
      options.only.push_back(value);
    } else {
      usage_error("unknown option " + word);
    }
  }
  if (options.servers.empty() || options.directories.empty() || options.rounds == 0) {
    usage_error("at least one --server, one --dir and one round are needed");
  }
  return options;
}

void expect(bool holds, const std::string& what) {
  if (!holds) {
    throw Error(Reaction::Corrupt, "perf.result", "a server gave a wrong result: " + what);
  }
}

struct Measurement {
  double wall = 0;
  double cpu = 0;
  double peak_mib = 0;
};

using Measurements = std::vector<Measurement>;

double median(const Measurements& all, double Measurement::*field) {
  std::vector<double> values;
  for (const auto& each : all) {
    values.push_back(each.*field);
  }
  std::sort(values.begin(), values.end());
  const auto middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

bool is_tmpfs(const std::string& directory) {
  struct statfs info {};

  system_call("perf.directory", "looking at " + directory, [&] {
    return ::statfs(directory.c_str(), &info);
  });
  return info.f_type == TMPFS_MAGIC;
}

class Stopwatch {
public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// What is in a server's store when a benchmark begins.
enum class Contents {
  Nothing, ///< a new store every time
  Paths,   ///< many linked paths
  Trees,   ///< the big file, the tree, and the small paths
};

struct Bench {
  std::string name;
  Contents contents = Contents::Nothing;
  std::function<void(Session&)> run;
};

/// Everything that is sent, made once.
struct Data {
  Payload big;
  Payload tree;
  std::vector<Payload> small;
  std::vector<Payload> linked;
  model::StorePaths absent;
};

void add(Session& session, const Payload& payload) {
  session.send(serve::AddToStoreNar{payload.info});
  session.send_nar(payload);
}

void add_with_round_trips(Session& session, const std::vector<Payload>& payloads) {
  for (const auto& payload : payloads) {
    add(session, payload);
    expect(session.number() == 1, "the reply to AddToStoreNar");
  }
}

void add_ahead(Session& session, const std::vector<Payload>& payloads) {
  for (const auto& payload : payloads) {
    add(session, payload);
  }
  for (std::size_t i = 0; i < payloads.size(); ++i) {
    expect(session.number() == 1, "the reply to AddToStoreNar");
  }
}

void import(Session& session, std::span<const Payload> payloads) {
  const model::StoreDir dir;
  session.send(serve::ImportPaths{});
  for (const auto& payload : payloads) {
    std::string text;
    protocol::write_export_nar_marker(text);
    session.send(bytes_of(text));
    session.send_nar(payload);
    text.clear();
    protocol::ExportTrailer trailer{payload.info.path, payload.info.references, std::nullopt};
    protocol::write_export_trailer(text, dir, trailer);
    session.send(bytes_of(text));
  }
  std::string end;
  protocol::write_export_end(end);
  session.send(bytes_of(end));
  expect(session.number() == 1, "the reply to ImportPaths");
}

void dump(Session& session, const Payload& payload) {
  session.send(serve::DumpStorePath{payload.info.path});
  session.take_raw(payload.info.nar_size);
}

void dump_and_check(Session& session, const Payload& payload) {
  Hasher hasher(HashAlgorithm::Sha256);
  session.send(serve::DumpStorePath{payload.info.path});
  session.take_raw(payload.info.nar_size, &hasher);
  expect(hasher.finish() == payload.info.nar_hash, "a dumped NAR has another hash");
}

model::StorePaths names_of(const std::vector<Payload>& payloads) {
  model::StorePaths names;
  names.reserve(payloads.size());
  for (const auto& payload : payloads) {
    names.push_back(payload.info.path);
  }
  return names;
}

std::vector<Bench> query_benches(const Data& data) {
  const auto count = data.linked.size();
  const auto names = std::make_shared<const model::StorePaths>(names_of(data.linked));
  std::vector<Bench> benches;
  benches.push_back({fmt::format("QueryValidPaths, {} absent", count),
                     Contents::Paths,
                     [&data](Session& session) {
                       session.send(serve::QueryValidPaths{false, false, data.absent});
                       expect(session.paths().empty(), "absent paths");
                     }});
  benches.push_back({fmt::format("QueryValidPaths, {} present", count),
                     Contents::Paths,
                     [names](Session& session) {
                       session.send(serve::QueryValidPaths{false, false, *names});
                       expect(session.paths().size() == names->size(), "present paths");
                     }});
  benches.push_back({fmt::format("QueryPathInfos, {} at once", count),
                     Contents::Paths,
                     [names](Session& session) {
                       session.send(serve::QueryPathInfos{*names});
                       expect(session.path_infos() == names->size(), "path infos");
                     }});
  benches.push_back({"QueryPathInfos, 1000 one by one", Contents::Paths, [names](Session& session) {
                       const auto some = std::min<std::size_t>(1'000, names->size());
                       for (std::size_t i = 0; i < some; ++i) {
                         session.send(serve::QueryPathInfos{{(*names)[i]}});
                         expect(session.path_infos() == 1, "one path info");
                       }
                     }});
  benches.push_back(
      {fmt::format("QueryClosure, {}", count), Contents::Paths, [names](Session& session) {
         session.send(serve::QueryClosure{false, {names->back()}});
         expect(session.paths().size() == names->size(), "a closure");
       }});
  return benches;
}

std::vector<Bench> copy_benches(const Data& data, const Options& options) {
  const auto big = fmt::format("{} MiB file", options.mib);
  const auto tree = fmt::format("{} files", options.files);
  const auto count = data.small.size();
  std::vector<Bench> benches;
  const auto bench = [&](std::string name, Contents contents, std::function<void(Session&)> run) {
    benches.push_back({std::move(name), contents, std::move(run)});
  };
  bench(fmt::format("AddToStoreNar, {} small, a round trip each", count),
        Contents::Nothing,
        [&](Session& session) { add_with_round_trips(session, data.small); });
  bench(fmt::format("AddToStoreNar, {} small, sent ahead", count),
        Contents::Nothing,
        [&](Session& session) { add_ahead(session, data.small); });
  bench(fmt::format("ImportPaths, {} small", count), Contents::Nothing, [&](Session& session) {
    import(session, data.small);
  });
  bench("AddToStoreNar, " + big, Contents::Nothing, [&](Session& session) {
    add_with_round_trips(session, {data.big});
  });
  bench("AddToStoreNar, " + tree, Contents::Nothing, [&](Session& session) {
    add_with_round_trips(session, {data.tree});
  });
  bench("ImportPaths, " + big, Contents::Nothing, [&](Session& session) {
    import(session, std::span(&data.big, 1));
  });
  bench(
      "DumpStorePath, " + big, Contents::Trees, [&](Session& session) { dump(session, data.big); });
  bench("DumpStorePath, " + tree, Contents::Trees, [&](Session& session) {
    dump(session, data.tree);
  });
  bench(fmt::format("DumpStorePath, {} small, a round trip each", count),
        Contents::Trees,
        [&](Session& session) {
          for (const auto& payload : data.small) {
            dump(session, payload);
          }
        });
  return benches;
}

/// Runs the benchmarks and keeps what they cost: per benchmark, place and server.
class Course {
public:
  explicit Course(Options options) : options_(std::move(options)) {}

  void run();
  void print() const;

private:
  [[nodiscard]] bool wanted(const std::string& name) const;

  /// Servers in the order of this round: each goes first as often as the others, because who goes
  /// first finds memory and disk as others have left them.
  [[nodiscard]] std::size_t turn(std::size_t round, std::size_t place) const {
    return (round + place) % options_.servers.size();
  }

  [[nodiscard]] std::unique_ptr<ServerStore>
  make_store(const ServerCommand& server, const std::string& directory, const std::string& purpose);
  void fill(const ServerStore& store, Contents contents) const;
  void run_starts();
  void run_stored(const std::vector<Bench>& benches, Contents contents);
  void run_adds(const std::vector<Bench>& benches);
  void measure(const Bench& bench, const ServerStore& store, const std::string& place);
  void
  keep(const std::string& name, const std::string& place, const ServerStore& store, Measurement m);

  struct Row {
    std::string name;
    std::string place;
    std::map<std::string, Measurements> servers;
  };

  Options options_;
  Data data_{big_file(0), big_file(0), {}, {}, {}};
  std::vector<Row> rows_;
};

bool Course::wanted(const std::string& name) const {
  return options_.only.empty() ||
         std::any_of(options_.only.begin(), options_.only.end(), [&](const auto& text) {
           return name.find(text) != std::string::npos;
         });
}

std::unique_ptr<ServerStore> Course::make_store(const ServerCommand& server,
                                                const std::string& directory,
                                                const std::string& purpose) {
  return std::make_unique<ServerStore>(
      server, fmt::format("{}/serve-bench-{}-{}-{}", directory, ::getpid(), server.name, purpose));
}

void Course::keep(const std::string& name,
                  const std::string& place,
                  const ServerStore& store,
                  Measurement m) {
  auto row = std::find_if(rows_.begin(), rows_.end(), [&](const Row& each) {
    return each.name == name && each.place == place;
  });
  if (row == rows_.end()) {
    rows_.push_back({name, place, {}});
    row = rows_.end() - 1;
  }
  row->servers[store.command().name].push_back(m);
  fmt::print(stderr,
             "{:<48} {:<6} {:<10} {:9.4f} s {:9.4f} cpu-s {:7.1f} MiB\n",
             name,
             place,
             store.command().name,
             m.wall,
             m.cpu,
             m.peak_mib);
}

void Course::measure(const Bench& bench, const ServerStore& store, const std::string& place) {
  // A new daemon for every measurement: nothing is left in memory from the last one.
  store.stop_daemon();
  store.settle();
  Session session(store);
  session.start_counting();
  const Stopwatch watch;
  bench.run(session);
  const auto wall = watch.seconds();
  const auto cost = session.cost();
  session.close();
  keep(bench.name, place, store, {wall, cost.cpu_seconds, cost.peak_mib});
}

void Course::fill(const ServerStore& store, Contents contents) const {
  Session session(store);
  if (contents == Contents::Paths) {
    add_ahead(session, data_.linked);
  } else {
    add(session, data_.big);
    add(session, data_.tree);
    expect(session.number() == 1 && session.number() == 1, "the replies to AddToStoreNar");
    add_ahead(session, data_.small);
    dump_and_check(session, data_.big);
    dump_and_check(session, data_.tree);
    for (const auto& payload : data_.small) {
      dump_and_check(session, payload);
    }
  }
  session.close();
}

void Course::run_starts() {
  constexpr std::size_t times = 10;
  const std::string warm = "start to greeting";
  const std::string cold = "start to greeting, new store, no daemon yet";
  const auto& [place, directory] = options_.directories.front();
  for (std::size_t round = 0; round < options_.rounds; ++round) {
    for (std::size_t i = 0; i < options_.servers.size(); ++i) {
      const auto store = make_store(options_.servers[turn(round, i)], directory, "start");
      if (wanted(cold)) {
        const Stopwatch watch;
        Session session(*store);
        const auto wall = watch.seconds();
        session.start_counting();
        const auto daemon = cpu_seconds_of(store->daemon());
        const auto peak = session.cost().peak_mib;
        keep(cold, place, *store, {wall, session.close() + daemon, peak});
      }
      if (wanted(warm)) {
        Session(*store).close();
        const auto daemon = store->daemon();
        for (std::size_t time = 0; time < times; ++time) {
          const auto before = cpu_seconds_of(daemon);
          const Stopwatch watch;
          Session session(*store);
          const auto wall = watch.seconds();
          const auto cpu = cpu_seconds_of(daemon) - before;
          session.start_counting();
          const auto peak = session.cost().peak_mib;
          keep(warm, place, *store, {wall, session.close() + cpu, peak});
        }
      }
    }
  }
}

void Course::run_stored(const std::vector<Bench>& benches, Contents contents) {
  std::vector<Bench> chosen;
  for (const auto& bench : benches) {
    if (bench.contents == contents && wanted(bench.name)) {
      chosen.push_back(bench);
    }
  }
  if (chosen.empty()) {
    return;
  }
  const auto& [place, directory] = options_.directories.front();
  std::vector<std::unique_ptr<ServerStore>> stores;
  for (const auto& server : options_.servers) {
    stores.push_back(make_store(server, directory, "filled"));
    const Stopwatch watch;
    fill(*stores.back(), contents);
    fmt::print(stderr, "filling the store of {} took {:.1f} s\n", server.name, watch.seconds());
  }
  for (std::size_t round = 0; round < options_.rounds; ++round) {
    for (const auto& bench : chosen) {
      for (std::size_t i = 0; i < stores.size(); ++i) {
        measure(bench, *stores[turn(round, i)], place);
      }
    }
  }
}

void Course::run_adds(const std::vector<Bench>& benches) {
  std::size_t number = 0;
  for (const auto& [place, directory] : options_.directories) {
    // ext4 steps over every inode that was deleted in the last minutes, one by one, when it makes a
    // file: a store that goes would slow down the next one.
    const bool keep_stores = !is_tmpfs(directory);
    std::vector<std::unique_ptr<ServerStore>> kept;
    for (std::size_t round = 0; round < options_.rounds; ++round) {
      for (const auto& bench : benches) {
        if (bench.contents != Contents::Nothing || !wanted(bench.name)) {
          continue;
        }
        for (std::size_t i = 0; i < options_.servers.size(); ++i) {
          const auto purpose = fmt::format("new-{}", ++number);
          auto store = make_store(options_.servers[turn(round, i)], directory, purpose);
          Session(*store).close(); // the store's own files are there before the clock runs
          measure(bench, *store, place);
          store->stop_daemon();
          if (keep_stores) {
            kept.push_back(std::move(store));
          }
        }
      }
    }
  }
}

void Course::run() {
  run_starts();
  constexpr std::size_t small_file = 4'096;
  data_.linked = linked_paths(options_.paths);
  data_.absent = absent_paths(options_.paths);
  run_stored(query_benches(data_), Contents::Paths);
  data_.linked.clear();
  data_.absent.clear();
  data_.small = small_paths(options_.adds, small_file);
  data_.tree = file_tree(options_.files);
  data_.big = big_file(options_.mib * kMiB);
  const auto copies = copy_benches(data_, options_);
  run_stored(copies, Contents::Trees);
  run_adds(copies);
}

void Course::print() const {
  std::string head = "| what | store on |";
  std::string line = "|---|---|";
  const auto& last = options_.servers.back().name;
  for (const auto& column : {"s", "cpu-s", "MiB"}) {
    for (const auto& server : options_.servers) {
      head += fmt::format(" {} {} |", server.name, column);
      line += "---:|";
    }
    for (const auto& server : options_.servers) {
      if (server.name != last && std::string_view(column) != "MiB") {
        head += fmt::format(" **{}/{}** |", server.name, last);
        line += "---:|";
      }
    }
  }
  fmt::print("{}\n{}\n", head, line);
  for (const auto& row : rows_) {
    fmt::print("| {} | {} |", row.name, row.place);
    for (const auto field : {&Measurement::wall, &Measurement::cpu, &Measurement::peak_mib}) {
      const bool memory = field == &Measurement::peak_mib;
      for (const auto& server : options_.servers) {
        const auto value = median(row.servers.at(server.name), field);
        fmt::print(" {:.{}f} |", value, memory ? 0 : value < 0.1 ? 4 : 2);
      }
      for (const auto& server : options_.servers) {
        if (server.name != last && !memory) {
          fmt::print(" **{:.2f}** |",
                     median(row.servers.at(server.name), field) /
                         median(row.servers.at(last), field));
        }
      }
    }
    fmt::print("\n");
  }
}

} // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  Course course(parse_options(argc, argv));
  try {
    course.run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
  course.print();
  return 0;
}
