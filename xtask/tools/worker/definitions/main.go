// The Transformation Domain of the demo: process definitions from a folder, by
// plugins/process/proto/transformation.proto.
//
//	definitions ADDRESS FOLDER
//
// FOLDER/TENANT/ID.json is read at every request; the version is the time at which the file was changed.
package main

import (
	"errors"
	"io/fs"
	"log"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

const method = "/ameide.transformation.v1.TransformationService/GetProcessDefinition"

// Numbers of the fields, the same in request and definition where both have them.
const (
	fieldDefinition = 1
	fieldID         = 1
	fieldTenant     = 2
	fieldVersion    = 3
	fieldContent    = 4
)

// bytes are messages as they are on the wire: one small service is not worth generated code.
type bytes struct{}

func (bytes) Name() string                        { return "proto" }
func (bytes) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }
func (bytes) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = data
	return nil
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: definitions ADDRESS FOLDER")
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	folder, err := os.OpenRoot(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	serve := func(_ any, stream grpc.ServerStream) error {
		if name, _ := grpc.MethodFromServerStream(stream); name != method {
			return status.Errorf(codes.Unimplemented, "%s is not served here", name)
		}
		var request []byte
		if err := stream.RecvMsg(&request); err != nil {
			return err
		}
		response, err := answer(folder, request)
		if err != nil {
			return err
		}
		return stream.SendMsg(&response)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(bytes{}), grpc.UnknownServiceHandler(serve))
	log.Fatal(server.Serve(listener))
}

func answer(folder *os.Root, request []byte) ([]byte, error) {
	id, tenant, err := asked(request)
	if err != nil {
		return nil, err
	}
	// a name with slashes is no file here: the root refuses what leads out of it, Base what leads deeper
	if id != filepath.Base(id) || tenant != filepath.Base(tenant) {
		return nil, status.Error(codes.NotFound, "no such definition")
	}
	path := filepath.Join(tenant, id+".json")
	file, err := folder.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, status.Errorf(codes.NotFound, "tenant %s has no definition %s", tenant, id)
	}
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	content, err := fs.ReadFile(folder.FS(), path)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	definition := field(fieldID, []byte(id))
	definition = append(definition, field(fieldTenant, []byte(tenant))...)
	definition = protowire.AppendTag(definition, fieldVersion, protowire.VarintType)
	definition = protowire.AppendVarint(definition, uint64(max(1, file.ModTime().Unix())))
	definition = append(definition, field(fieldContent, content)...)
	return field(fieldDefinition, definition), nil
}

func asked(request []byte) (id, tenant string, err error) {
	for len(request) > 0 {
		number, kind, length := protowire.ConsumeTag(request)
		if length < 0 {
			return "", "", status.Error(codes.InvalidArgument, "no request")
		}
		request = request[length:]
		if kind == protowire.BytesType {
			value, length := protowire.ConsumeString(request)
			if length < 0 {
				return "", "", status.Error(codes.InvalidArgument, "no request")
			}
			switch number {
			case fieldID:
				id = value
			case fieldTenant:
				tenant = value
			}
			request = request[length:]
			continue
		}
		length = protowire.ConsumeFieldValue(number, kind, request)
		if length < 0 {
			return "", "", status.Error(codes.InvalidArgument, "no request")
		}
		request = request[length:]
	}
	return id, tenant, nil
}

func field(number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}
