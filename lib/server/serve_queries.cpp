#include "serve_state.hpp"
#include "session_times.hpp"

#include <algorithm>
#include <utility>

namespace nixbuild::server {

namespace serve = protocol::serve;

aio::Task<std::string> ServeState::look_up(serve::QueryValidPaths& request) {
  // Leased before they are looked up, so that nothing told to be valid can vanish between.
  lease_.add(request.paths);
  std::string gathered;
  auto work = [this, &request, &gathered] {
    const auto valid = parts_.store.db().valid_paths(account_, request.paths);
    serve::write_paths(gathered, parts_.store.dir(), valid);
  };
  if (request.paths.size() <= kAnswerAtOnce) {
    work();
  } else {
    co_await parts_.pool.run(std::move(work));
  }
  co_return gathered;
}

aio::Task<void> ServeState::gather_infos(std::span<const model::StorePath> paths,
                                         std::string& gathered) {
  auto work = [this, paths, &gathered] {
    auto visit = [this, &gathered](const model::PathInfo& info) {
      serve::write_path_info(
          gathered, parts_.store.dir(), version_, serve::PathInfoReply{info, info.nar_size});
    };
    parts_.store.db().path_infos(account_, paths, visit);
  };
  if (paths.size() <= kAnswerAtOnce) {
    work();
  } else {
    co_await parts_.pool.run(std::move(work));
  }
}

aio::Task<std::string> ServeState::look_up(serve::QueryPathInfos& request) {
  lease_.add(request.paths);
  std::string gathered;
  co_await gather_infos(request.paths, gathered);
  serve::write_end_of_infos(gathered);
  co_return gathered;
}

aio::Task<void> ServeState::query_many_infos(serve::QueryPathInfos request) {
  const auto began = caller_.times->now_us();
  lease_.add(request.paths);
  const std::span<const model::StorePath> paths(request.paths);
  for (std::size_t begin = 0; begin < paths.size(); begin += kInfosAtOnce) {
    const auto count = std::min(kInfosAtOnce, paths.size() - begin);
    co_await gather_infos(paths.subspan(begin, count), reply_);
    if (reply_.size() >= kGather) {
      co_await reply();
    }
  }
  serve::write_end_of_infos(reply_);
  co_await reply();
  caller_.times->asked(began);
}

aio::Task<std::string> ServeState::look_up(serve::QueryClosure& request) {
  std::string gathered;
  auto work = [this, &request, &gathered] {
    const auto closure = parts_.store.db().closure(account_, request.paths);
    lease_.add(closure);
    serve::write_paths(gathered, parts_.store.dir(), closure);
  };
  co_await parts_.pool.run(std::move(work));
  co_return gathered;
}

} // namespace nixbuild::server
