package awscloud

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// TaskMetadata describes the task that the process runs in. It comes from an endpoint
// that ECS gives each container ("Amazon ECS task metadata endpoint version 4" in the
// ECS developer guide).
type TaskMetadata struct {
	TaskID    string
	Addresses []netip.Addr // of the task's network interface, in the VPC
}

// maxMetadata limits how many bytes of metadata are read. A task's metadata is far
// smaller.
const maxMetadata = 1 << 20

// metadataTimeout is the limit of one attempt. The endpoint is on the same machine.
const metadataTimeout = 2 * time.Second

// ReadTaskMetadata reads the metadata of the process's task. uri is the value of
// ECS_CONTAINER_METADATA_URI_V4 in the environment. If a read fails, it is repeated
// until ctx ends, because the endpoint may not respond yet when a container starts.
func ReadTaskMetadata(ctx context.Context, uri string) (TaskMetadata, error) {
	for {
		found, err := readTaskMetadata(ctx, uri)
		if err == nil {
			return found, nil
		}
		select {
		case <-ctx.Done():
			return TaskMetadata{}, fmt.Errorf("read the task's metadata: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func readTaskMetadata(ctx context.Context, uri string) (TaskMetadata, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, uri+"/task", nil)
	if err != nil {
		return TaskMetadata{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return TaskMetadata{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return TaskMetadata{}, fmt.Errorf("GET %s/task: %s", uri, response.Status)
	}
	return parseTaskMetadata(io.LimitReader(response.Body, maxMetadata))
}

func parseTaskMetadata(body io.Reader) (TaskMetadata, error) {
	var task struct {
		TaskARN    string
		Containers []struct {
			Networks []struct{ IPv4Addresses, IPv6Addresses []netip.Addr }
		}
	}
	if err := json.NewDecoder(body).Decode(&task); err != nil {
		return TaskMetadata{}, fmt.Errorf("decode the task's metadata: %w", err)
	}
	// arn:aws:ecs:REGION:ACCOUNT:task/CLUSTER/ID
	kind, rest, _ := strings.Cut(task.TaskARN[strings.LastIndex(task.TaskARN, ":")+1:], "/")
	found := TaskMetadata{TaskID: rest[strings.LastIndex(rest, "/")+1:]}
	if kind != "task" || found.TaskID == "" {
		return TaskMetadata{}, fmt.Errorf("%q is not the ARN of a task", task.TaskARN)
	}
	for _, container := range task.Containers {
		for _, network := range container.Networks {
			found.Addresses = append(append(found.Addresses, network.IPv4Addresses...), network.IPv6Addresses...)
		}
	}
	return found, nil
}
