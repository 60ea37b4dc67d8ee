#include "session_times.hpp"
#include "worker_state.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/this_coro.hpp>

#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;
namespace worker = protocol::worker;

bool WorkerState::is_question(const worker::Request& request) {
  auto visit = []<class T>(const T&) {
    return requires(WorkerState & state, T & wanted) {
      state.look_up(wanted);
    };
  };
  return std::visit(visit, request);
}

namespace {

aio::Task<worker::Reply> ready_answer(worker::Reply reply) {
  co_return reply;
}

} // namespace

aio::Task<worker::Reply> WorkerState::find_answer(worker::Request& question) {
  caller_.expect(worker::permission_of(question), worker::name_of(question));
  if (caller_.inside != nullptr) {
    if (auto reply = answer_inside(question)) {
      return ready_answer(std::move(*reply));
    }
  }
  auto dispatch = [this]<class T>(T& wanted) -> aio::Task<worker::Reply> {
    if constexpr (requires { look_up(wanted); }) {
      return look_up(wanted);
    } else {
      throw Error(Reaction::Internal, "worker.question", "this is no question");
    }
  };
  return std::visit(dispatch, question);
}

aio::Task<void> WorkerState::answer(std::shared_ptr<WorkerState> self,
                                    std::shared_ptr<Asked> asked) {
  const auto began = self->caller_.times->now_us();
  try {
    asked->reply = co_await self->find_answer(asked->question);
  } catch (...) {
    asked->failure = std::current_exception();
  }
  self->note_time(asked->question, began);
  self->answered_.notify();
}

aio::Task<void> WorkerState::serve_ahead(std::vector<worker::Request> questions) {
  const auto strand = co_await asio::this_coro::executor;
  std::vector<std::shared_ptr<Asked>> all;
  for (auto& question : questions) {
    all.push_back(std::make_shared<Asked>(Asked{std::move(question)}));
    // They own what they use: a client that leaves does not wait for its answers.
    auto answering = answer(shared_from_this(), all.back());
    asio::co_spawn(strand, std::move(answering), asio::detached);
  }
  for (const auto& asked : all) {
    while (!asked->answered()) {
      co_await send(); // nobody waits for a slower one behind
      const auto seen = answered_.count();
      if (!asked->answered()) {
        co_await answered_.wait(seen);
      }
    }
    if (asked->failure) {
      refuse(asked->question, asked->failure);
    } else {
      conclude(*asked->reply);
    }
    if (reply_.size() >= kGather) {
      co_await send();
    }
  }
  co_await send();
}

} // namespace nixbuild::server
