// Sends recorded frames into a session: HELLO, FRAMEs within the credit, verdicts, BYE.
//   send_frames tcp://127.0.0.1:5555 SESSION FRAMES.txt
// FRAMES.txt (of frames_txt.py, or your own) has the camera, then a line a frame, OpenCV axes:
//   PINHOLE width height fx fy cx cy
//   "image.jpg" stamp_ns m00 m01 ... m33
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <thread>
#include "wire.hpp"

struct Recorded { std::string image; int64_t stamp_ns = 0; Pose pose{}; };

std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path.string() + " cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<Recorded> read_recording(const std::string& path, Camera& camera) {
    std::istringstream lines(read_file(path));
    std::string line;
    std::istringstream first(std::getline(lines, line) ? line : "");
    first >> camera.model >> camera.width >> camera.height;
    for (double value; first >> value;) camera.params.push_back(value);
    if (camera.params.empty()) throw std::runtime_error("the first line is no camera: " + line);
    std::vector<Recorded> frames;
    while (std::getline(lines, line)) {
        std::istringstream fields(line);
        Recorded& frame = frames.emplace_back();
        fields >> std::quoted(frame.image) >> frame.stamp_ns;
        for (double& value : frame.pose) fields >> value;
        if (!fields) throw std::runtime_error("this line is no frame: " + line);
    }
    return frames;
}

int send(const std::string& address, const std::string& session, const std::string& file) {
    Camera camera;
    const auto frames = read_recording(file, camera);
    const auto folder = std::filesystem::path(file).parent_path();
    Connection daemon(address);
    daemon.say("HELLO", Hello{{1, 0}, session, "cpp", "frames", "opencv", {{"front", camera}}});
    const Answer welcome = daemon.hear();
    std::cout << "WELCOME credit " << welcome.credit << " durable " << welcome.durable << '\n';
    int64_t next = welcome.next_seq, settled = next - 1, limit = settled + welcome.credit;
    int64_t rejected = 0, count = frames.size();
    while (settled < count - 1) {
        for (; next < count && next <= limit && !daemon.heard(); ++next) {
            const auto& [image, stamp_ns, pose] = frames[next];
            const bool png = std::filesystem::path(image).extension() == ".png";
            daemon.say("FRAME", Frame{next, stamp_ns, "front", png ? "png" : "jpeg", camera.width,
                                      camera.height, pose}, read_file(folder / image));
        }
        const Answer answer = daemon.hear();
        if (answer.kind == "ACK") {
            std::cout << "ACK " << answer.seq << " credit " << answer.credit << '\n';
            settled = std::max(settled, answer.seq);
            limit = answer.seq + answer.credit;
        } else if (answer.kind == "REJECT") {
            std::cout << "REJECT " << answer.seq << ' ' << answer.code << ' '
                      << answer.reason << '\n';
            const bool again = answer.code == "no_credit" || answer.code == "busy";
            if (!again) settled = std::max(settled, answer.seq), ++rejected;
            else next = std::min(next, answer.seq);  // not settled: the same seq again
            if (answer.code == "no_credit") limit = next - 1;  // until an ACK extends it
            if (answer.code == "busy") std::this_thread::sleep_for(std::chrono::seconds(1));
        }
    }
    daemon.say("BYE", Nothing{});
    std::cout << settled + 1 << " frames settled, " << rejected << " rejected\n";
    return rejected ? 1 : 0;
}

int main(int count, char** words) try {
    if (count != 4) throw std::runtime_error("usage: send_frames ADDRESS SESSION FRAMES.txt");
    return send(words[1], words[2], words[3]);
} catch (const std::exception& error) {
    std::cerr << "send_frames " << (count > 1 ? words[1] : "") << ": " << error.what() << '\n';
    return 2;
}
