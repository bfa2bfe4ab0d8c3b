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

	"github.com/aws/aws-sdk-go-v2/config"
)

// TaskMetadata is what a task finds out about itself from the endpoint that ECS
// gives each container ("Amazon ECS task metadata endpoint version 4" in the ECS
// developer guide).
type TaskMetadata struct {
	TaskID    string
	Addresses []netip.Addr // of the task's interface, as the VPC knows them
}

// maxMetadata is far more than a task's metadata takes.
const maxMetadata = 1 << 20

// metadataTimeout bounds one try; the endpoint is on the same machine.
const metadataTimeout = 2 * time.Second

// ReadTaskMetadata reads the metadata below uri, which is the environment's
// ECS_CONTAINER_METADATA_URI_V4. The endpoint may not answer in a container's
// first moments, so it is asked again until ctx is done.
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
		return TaskMetadata{}, fmt.Errorf("%q is no task's ARN", task.TaskARN)
	}
	for _, container := range task.Containers {
		for _, network := range container.Networks {
			found.Addresses = append(append(found.Addresses, network.IPv4Addresses...), network.IPv6Addresses...)
		}
	}
	return found, nil
}

// ConnectTaskLease makes a task's side of the table of leases, with the
// credentials and the region of the environment. It calls nobody.
func ConnectTaskLease(ctx context.Context, table, roleID, taskID string) (*TaskLease, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the AWS configuration: %w", opaque(err))
	}
	return NewTaskLease(NewDynamoDB(cfg), table, roleID, taskID), nil
}
