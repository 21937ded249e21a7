// Peer-go is SaveAnswer in Go, on grpc-go and go-redis: the same checks, the same call of the same Redis function.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"google.golang.org/grpc"

	pb "finalbell/bench/peers/go/gen"
)

const (
	maxMessageBytes = 64 * 1024
	redisTimeout    = 250 * time.Millisecond
)

func main() {
	listen := flag.String("listen", "", "where to serve, HOST:PORT")
	redisURL := flag.String("redis", "", "Redis with the sessions")
	jwks := flag.String("jwks", "", "the file with the public keys")
	issuer := flag.String("issuer", "", "the tokens' issuer")
	audience := flag.String("audience", "", "the tokens' audience")
	function := flag.String("function", "", "the save function's name, save_DIGEST")
	cores := flag.Int("cores", 1, "how many cores to use")
	flag.Parse()
	runtime.GOMAXPROCS(*cores)

	client, err := connect(*redisURL)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	peer, err := newPeer(client, newTokens(*jwks, *issuer, *audience), *function)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessageBytes))
	pb.RegisterSessionServiceServer(server, peer)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-stop
		server.GracefulStop()
	}()
	fmt.Println("ready")
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}

// connect never retries by itself, since only the caller knows whether a repeat is safe.
func connect(url string) (*redis.Client, error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	options.MaxRetries = -1
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout = redisTimeout, redisTimeout, redisTimeout
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewClient(options), nil
}
