package awscloud

import (
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// runTaskInput is all that RunTask is sent. It follows from the stack and the
// launch alone, because a clientToken that comes with other parameters is a
// ConflictException. What bastiond needs beyond its bastion's id is in the task
// definition, and what changes during a bastion's life is in its lease.
//
// It names a capacity provider and no launch type: they exclude each other, and
// Spot can be had by provider only. Nothing is propagated, so that a task's tags
// are these and no others.
func (s Stack) runTaskInput(launch bastion.Launch) *ecs.RunTaskInput {
	provider, public := "FARGATE", types.AssignPublicIpDisabled
	if s.Spot {
		provider = "FARGATE_SPOT"
	}
	if s.Public {
		public = types.AssignPublicIpEnabled
	}
	return &ecs.RunTaskInput{
		Cluster:        aws.String(s.Cluster),
		TaskDefinition: aws.String(launch.TaskDefinition),
		Count:          aws.Int32(1),
		ClientToken:    aws.String(ClientToken(launch.BastionID, launch.Attempt)),
		StartedBy:      aws.String(StartedBy(launch.BastionID)),
		CapacityProviderStrategy: []types.CapacityProviderStrategyItem{
			{CapacityProvider: aws.String(provider), Weight: 1},
		},
		NetworkConfiguration: &types.NetworkConfiguration{
			AwsvpcConfiguration: &types.AwsVpcConfiguration{
				Subnets:        []string{launch.Subnet},
				SecurityGroups: []string{launch.GroupID, s.MemberGroup},
				AssignPublicIp: public,
			},
		},
		Overrides: &types.TaskOverride{
			ContainerOverrides: []types.ContainerOverride{{
				Name:        aws.String(s.Container),
				Environment: []types.KeyValuePair{{Name: aws.String(EnvBastionID), Value: aws.String(launch.BastionID)}},
			}},
		},
		Tags: []types.Tag{
			{Key: aws.String(TagStack), Value: aws.String(s.ID)},
			{Key: aws.String(TagID), Value: aws.String(launch.BastionID)},
			{Key: aws.String(TagAttempt), Value: aws.String(strconv.Itoa(launch.Attempt))},
		},
	}
}
