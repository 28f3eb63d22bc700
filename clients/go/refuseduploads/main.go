// Command refuseduploads uploads files that the file service must refuse, again and again, and prints how each call
// ended: a line of JSON with, for each kind of file, how often the client was told which reason.
//
// A server that answers before it has read everything must still get its status through to a client that is writing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	filev1 "parley/clients/gen/parley/file/v1"
)

const (
	chunkBytes  = 64 << 10
	bytesInAll  = 3 * chunkBytes
	callTimeout = 20 * time.Second
)

func main() {
	address := flag.String("address", "", "where the file service listens, as host:port")
	times := flag.Int("times", 100, "how often each file is sent")
	tooLarge := flag.Int64("too-large", 0, "a size in bytes that is more than a file may have")
	overQuota := flag.Int64("over-quota", 0, "a size in bytes that a file may have, and for which the user has no quota")
	flag.Parse()
	if err := run(*address, os.Getenv("PARLEY_TOKEN"), *times, *tooLarge, *overQuota); err != nil {
		fmt.Fprintln(os.Stderr, "refuseduploads:", err)
		os.Exit(1)
	}
}

func run(address, token string, times int, tooLarge, overQuota int64) error {
	files := map[string][]*filev1.UploadFileRequest{
		"too large":    upload(start(tooLarge), nil),
		"no quota":     upload(start(overQuota), nil),
		"a bad crc32c": upload(start(0), chunk(0, []byte("x"), proto.Uint32(1))),
	}
	told := map[string]map[string]int{}
	for name, requests := range files {
		told[name] = map[string]int{}
		for range times {
			reason, err := send(address, token, requests)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			told[name][reason]++
		}
	}
	return json.NewEncoder(os.Stdout).Encode(told)
}

// send uploads one file over a connection of its own, and returns the reason for which it was refused.
func send(address, token string, requests []*filev1.UploadFileRequest) (string, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	stream, err := filev1.NewFileServiceClient(conn).UploadFile(ctx)
	if err != nil {
		return "", err
	}
	for _, request := range requests {
		if err := stream.Send(request); errors.Is(err, io.EOF) {
			break // The call has ended; CloseAndRecv tells how.
		} else if err != nil {
			return "", err
		}
	}
	if _, err = stream.CloseAndRecv(); err == nil {
		return "", errors.New("the file was stored")
	}
	refused := status.Convert(err)
	for _, detail := range refused.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason(), nil
		}
	}
	return fmt.Sprintf("%s without a reason: %s", refused.Code(), refused.Message()), nil
}

// upload is all messages of an upload: extra comes before the bytes, unless it is nil.
func upload(start, extra *filev1.UploadFileRequest) []*filev1.UploadFileRequest {
	requests := []*filev1.UploadFileRequest{start}
	if extra != nil {
		requests = append(requests, extra)
	}
	for offset := 0; offset < bytesInAll; offset += chunkBytes {
		requests = append(requests, chunk(int64(offset), make([]byte, chunkBytes), nil))
	}
	finish := &filev1.UploadFileRequest_Finish{Finish: &filev1.UploadFinish{}}
	return append(requests, &filev1.UploadFileRequest{Step: finish})
}

// start declares a size, unless it is 0.
func start(sizeBytes int64) *filev1.UploadFileRequest {
	start := &filev1.UploadStart{Filename: "refused.bin"}
	if sizeBytes > 0 {
		start.SizeBytes = proto.Int64(sizeBytes)
	}
	return &filev1.UploadFileRequest{Step: &filev1.UploadFileRequest_Start{Start: start}}
}

func chunk(offset int64, data []byte, crc32c *uint32) *filev1.UploadFileRequest {
	chunk := &filev1.UploadChunk{Offset: offset, Data: data, Crc32C: crc32c}
	return &filev1.UploadFileRequest{Step: &filev1.UploadFileRequest_Chunk{Chunk: chunk}}
}
