"""The methods that every task's step runs through: the arithmetic of `SawyerXYZEnv` with less around it."""

from __future__ import annotations

from copy import copy
from math import sqrt
from typing import Any
from weakref import WeakValueDictionary

import mujoco
import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.fast.rewards import hamacher_product, norm, tolerance
from mtrl_conic.envs.fast.views import DataViews

FRAME_SIZE = 18  # hand [3], gripper [1], objects [14]
MOCAP_QUATERNION = np.array([1.0, 0.0, 1.0, 0.0])


# The models in use, by their XML file; an entry goes when its environment does.
_models: WeakValueDictionary[str, Any] = WeakValueDictionary()
_Official: Any = object  # the type checker takes it for the official class, which comes after this one


class FastMixin(_Official):
    """Goes before an official class in the bases; what begins with `fast_` is a cache, not state."""

    def _initialize_simulation(self) -> tuple[Any, Any]:
        model, data = self._compile_or_copy()
        self.fast_data, self.fast_views = data, DataViews(data)
        self.fast_hand = data.body("hand").xpos
        self.fast_claws = data.body("rightclaw").xpos, data.body("leftclaw").xpos
        self.fast_pads = data.body("leftpad").xpos, data.body("rightpad").xpos
        self.fast_fingers = data.site("rightEndEffector").xpos, data.site("leftEndEffector").xpos
        self.fast_pad_geoms = data.geom("leftpad_geom").id, data.geom("rightpad_geom").id
        self.fast_mocap_pos, self.fast_mocap_quat = data.mocap_pos[0], data.mocap_quat[0]
        self.fast_ctrl = data.ctrl
        self.fast_scale = np.float32(self.action_scale)
        low, high = self.mocap_low.tolist(), self.mocap_high.tolist()
        self.fast_mocap_bounds = tuple(zip(low, high, strict=True))
        return model, data

    def _compile_or_copy(self) -> tuple[Any, Any]:
        """A copy of the model of another environment of this task, where there is one: a tenth of the time.

        What that environment's goal has moved in its model, the first reset of this one overwrites.
        """
        living = _models.get(self.fullpath)
        if living is None:
            model, data = super()._initialize_simulation()
        else:
            model = copy(living)
            data = mujoco.MjData(model)
        _models[self.fullpath] = model
        return model, data

    def set_task(self, task: Any) -> None:
        """Set the goal and look up the observation's bounds, which depend on its being visible."""
        super().set_task(task)
        space = self.sawyer_observation_space
        self.fast_low, self.fast_high = space.low, space.high

    def fast_step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, dict[str, Any]]:
        """A step with an action [4]: the observation [39], the reward and the task's `info`.

        Left out of the shipped step, as nothing in these three depends on it: the forces of
        `mj_rnePostConstraint`, and target sites written just before `mj_forward` computes them.
        """
        self.set_xyz_action(action[:3])
        self.fast_ctrl[0] = effort = action[3]
        self.fast_ctrl[1] = -effort
        mujoco.mj_step(self.model, self.fast_data, nstep=self.frame_skip)
        self.curr_path_length += 1
        mujoco.mj_forward(self.model, self.fast_data)
        observation = self._get_obs()
        np.maximum(observation, self.fast_low, out=observation)
        np.minimum(observation, self.fast_high, out=observation)
        return observation, *self.evaluate_state(observation, action)

    def set_xyz_action(self, action: NDArray[np.float32]) -> None:
        """Move the mocap body by an action [3], within its bounds; the product is a float32, as shipped."""
        # Rounding is monotone, so the product may be clipped instead of the action.
        limit = float(self.fast_scale)
        moves, mocap = (action * self.fast_scale).tolist(), self.fast_mocap_pos
        for axis, (low, high) in enumerate(self.fast_mocap_bounds):
            position = float(mocap[axis]) + min(max(moves[axis], -limit), limit)
            mocap[axis] = min(max(position, low), high)
        self.fast_mocap_quat[:] = MOCAP_QUATERNION

    def _get_curr_obs_combined_no_goal(self) -> NDArray[np.float64]:
        right, left = self.fast_claws
        apart = right - left
        frame = np.zeros(FRAME_SIZE)
        frame[:3] = self.fast_hand
        frame[3] = min(sqrt(apart.dot(apart)) / 0.1, 1.0)
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        if len(positions) == 3:
            frame[4:7], frame[7:11] = positions, quaternions
        else:
            objects = np.hstack((np.reshape(positions, (-1, 3)), np.reshape(quaternions, (-1, 4))))
            frame[4 : 4 + objects.size] = objects.ravel()
        return frame

    def _get_obs(self) -> NDArray[np.float64]:
        goal = self._get_pos_goal()
        frame = self._get_curr_obs_combined_no_goal()
        observation = np.concatenate((frame, self._prev_obs, goal))
        self._prev_obs: NDArray[np.float64] = frame
        return observation

    @property
    def tcp_center(self) -> NDArray[np.float64]:
        """The point between the two fingers [3]."""
        right, left = self.fast_fingers
        return (right + left) / 2.0

    def get_endeff_pos(self) -> NDArray[np.float64]:
        """The hand's position [3], a live view."""
        return self.fast_hand

    def get_body_com(self, body_name: str) -> NDArray[np.float64]:
        """A body's position [3], a live view."""
        return self.fast_views.body(body_name).xpos

    def _get_site_pos(self, site_name: str) -> NDArray[np.float64]:
        return self.fast_views.site(site_name).xpos.copy()

    def touching_object(self, object_geom_id: int) -> bool:
        """Whether both pads press on the geom: the sum of each pad's contact forces is positive."""
        data, pressed = self.fast_data, []
        pairs = data.contact.geom.tolist()
        for pad in self.fast_pad_geoms:
            both = [i for i, pair in enumerate(pairs) if pad in pair and object_geom_id in pair]
            pressed.append(bool(both) and sum(data.efc_force[data.contact.efc_address[both]]) > 0)
        return all(pressed)

    def _gripper_caging_reward(
        self,
        action: NDArray[np.float32],
        obj_pos: NDArray[np.float64],
        obj_radius: float,
        pad_success_thresh: float,
        object_reach_radius: float,
        xz_thresh: float,
        desired_gripper_effort: float = 1.0,
        high_density: bool = False,
        medium_density: bool = False,
    ) -> float:
        if high_density and medium_density:
            raise ValueError("the reward is of high or of medium density, not both")
        caging_y = self._caging_y(float(obj_pos[1]), obj_radius, pad_success_thresh)
        caging = hamacher_product(caging_y, self._caging_xz(obj_pos, xz_thresh))
        closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
        reward = hamacher_product(caging, closed if caging > 0.97 else 0.0)
        if high_density:
            reward = (reward + caging) / 2
        if medium_density:
            reward = (reward + self._reach(obj_pos, object_reach_radius)) / 2
        return reward

    def _caging_y(self, object_y: float, obj_radius: float, pad_success_thresh: float) -> float:
        """How well the pads enclose the object: near it, but not nearer than its radius."""
        initial_y, sides = float(self.obj_init_pos[1]), []
        for pad in self.fast_pads:
            pad_y = float(pad[1])
            margin = abs(abs(pad_y - initial_y) - pad_success_thresh)
            bounds = (obj_radius, pad_success_thresh)
            sides.append(tolerance(abs(pad_y - object_y), bounds, margin, "long_tail"))
        return hamacher_product(*sides)

    def _caging_xz(self, obj_pos: NDArray[np.float64], xz_thresh: float) -> float:
        """How near the fingers are to the object in x and z, in units of the first distance."""
        x, _, z = (self.obj_init_pos - self.init_tcp).tolist()
        margin = sqrt(x * x + z * z) - xz_thresh
        x, _, z = (self.tcp_center - obj_pos).tolist()
        return tolerance(sqrt(x * x + z * z), (0, xz_thresh), margin, "long_tail")

    def _reach(self, obj_pos: NDArray[np.float64], object_reach_radius: float) -> float:
        """How near the fingers are to the object, in units of the first distance."""
        margin = abs(norm(self.obj_init_pos - self.init_tcp) - object_reach_radius)
        return tolerance(norm(obj_pos - self.tcp_center), (0, object_reach_radius), margin, "long_tail")
